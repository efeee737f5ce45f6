"""Checks prefill attention over the paged cache against float64 on random cases, then times it on long prompts.

usage: prefill.py [--cases N] [--seed S] [--no-timing]

Needs PyTorch on a Hopper GPU. Timing as in decode.py: launches in a CUDA graph, the median of 15 replays.
"""

import argparse
import collections
import os
import random
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent)]

from prefill_settings import PrefillPlan

CACHE = os.environ.get("APUS_CUBINS")
TOLERANCE = 4e-3
PAGES = [8, 16, 64, 128, 256]
Geometry = collections.namedtuple("Geometry", "heads groups shared value key once")
# Heads of one group: GQA of 64, 96, 128 and 256, GTA of 64 and 128, GLA of 256 + 64 and 128 + 32.
GEOMETRIES = [
    Geometry(1, 1, 0, 64, 64, 0), Geometry(1, 1, 0, 96, 96, 0), Geometry(1, 1, 0, 128, 128, 0), Geometry(1, 1, 0, 256, 256, 0),
    Geometry(1, 1, 32, 32, 32, 1), Geometry(1, 1, 64, 64, 64, 1), Geometry(1, 1, 256, 0, 64, 1), Geometry(1, 1, 128, 0, 32, 1)]
# name, geometry, new tokens, cached tokens, batch.
ROWS = [
    ("SmolLM2", Geometry(9, 3, 0, 64, 64, 0), 1024, 0, 16), ("GQA-4", Geometry(64, 4, 0, 128, 128, 0), 4096, 0, 2),
    ("GQA-4", Geometry(64, 4, 0, 128, 128, 0), 512, 16384, 2), ("GTA-4", Geometry(64, 4, 64, 64, 64, 1), 4096, 0, 2),
    ("GLA-2", Geometry(16, 2, 256, 0, 64, 1), 512, 16384, 2)]


class PrefillCase:
    """Random queries and pages on the GPU; what lies behind the sequences' ends is NaN."""

    def __init__(self, geometry, new, cached, page_size, window=None, seed=0):
        import torch

        import driver
        import nvrtc

        self.torch, self.driver, self.new, self.cached = torch, driver, new, cached
        generator = torch.Generator("cuda").manual_seed(seed)
        g = self.geometry = geometry
        self.starts = [sum(new[:i]) for i in range(len(new) + 1)]
        self.plan = plan = PrefillPlan(g, self.starts, cached, page_size, (g.shared + g.key) ** -0.5, window)
        self.used = [-(-(a + b) // page_size) for a, b in zip(new, cached)]
        order = torch.randperm(sum(self.used) + 1, device="cuda", generator=generator, dtype=torch.int32)
        self.table = torch.full((len(new), max(self.used) + 1), 2**30, device="cuda", dtype=torch.int32)
        self.cache = torch.randn(len(order), plan.page_bytes() // 2, device="cuda", generator=generator).bfloat16()
        self.cut = page_size * g.groups * plan.row
        for b, count in enumerate(self.used):
            self.table[b, :count] = order[sum(self.used[:b]) :][:count]
            held = (new[b] + cached[b]) % page_size
            if held:
                page = self.cache[int(self.table[b, count - 1])]
                page[: self.cut].view(g.groups, page_size, plan.row)[:, held:] = torch.nan
                if g.once:
                    page[self.cut :].view(page_size, g.key)[held:] = torch.nan
        tokens = self.starts[-1]
        self.query = torch.randn(tokens, g.heads, g.shared + g.key, device="cuda", generator=generator).bfloat16()
        self.output = torch.full((tokens, g.heads, g.shared + g.value), torch.nan, device="cuda", dtype=torch.bfloat16)
        self.lse = torch.full((tokens, g.heads), torch.nan, device="cuda")
        self.items = torch.from_numpy(plan.items).cuda()
        self.counters = torch.zeros(2, dtype=torch.int32, device="cuda")
        self.kernel = driver.Kernel(nvrtc.compile_kernel("prefill.cu", plan.definitions, cache=CACHE), "prefill", plan.shared)
        self.blocks = torch.cuda.get_device_properties(0).multi_processor_count

    def run(self, _=0):
        self.plan.run(
            self.driver, self.kernel, self.query.data_ptr(), self.cache.data_ptr(), len(self.cache), self.table.data_ptr(),
            self.table.shape[1], self.items.data_ptr(), self.counters.data_ptr(), self.output.data_ptr(), self.lse.data_ptr(),
            self.blocks)

    def errors(self, sample=None):
        """Relative error of the output, the worst head of a sequence; 1 where a log-sum-exp is off."""
        torch, g, plan, worst = self.torch, self.geometry, self.plan, 0.0
        pairs = [(b, h) for b in range(len(self.new)) if self.new[b] for h in range(g.heads)]
        for b, head in random.sample(pairs, min(sample or len(pairs), len(pairs))):
            whole = self.new[b] + self.cached[b]
            pages = self.cache[self.table[b, : self.used[b]].long()].double()
            rows = pages[:, : self.cut].view(-1, g.groups, plan.page_size, plan.row)[:, head // (g.heads // g.groups)]
            rows = rows.reshape(-1, plan.row)[:whole]
            value, key = rows[:, : g.shared + g.value], rows[:, g.shared + g.value :]
            if g.once:
                key = pages[:, self.cut :].reshape(-1, g.key)[:whole]
            place = slice(self.starts[b], self.starts[b + 1]), head
            s = self.query[place].double() @ torch.cat([rows[:, : g.shared], key], 1).T * plan.scale
            far = self.cached[b] + torch.arange(self.new[b], device="cuda")[:, None] - torch.arange(whole, device="cuda")
            s = s.masked_fill((far < 0) | (far >= plan.window), -torch.inf)
            lse = torch.logsumexp(s, 1)
            output = torch.exp(s - lse[:, None]) @ value
            error = float((self.output[place].double() - output).norm() / output.norm())
            worst = max(worst, error if error == error else 1.0)
            if not bool(((self.lse[place].double() - lse).abs() < 1e-3 * (1 + lse.abs())).all()):
                worst = 1.0
        return worst

    def check(self, sample=None):
        """Errors, and whether another run gave the same bits."""
        runs = []
        for _ in range(2):
            self.output.fill_(self.torch.nan)
            self.run()
            self.torch.cuda.synchronize()
            runs.append(self.output.clone())
        return self.errors(sample), bool((runs[0].view(self.torch.int16) == runs[1].view(self.torch.int16)).all())

    def flops(self):
        g = self.geometry
        scores = sum(n * c + n * (n + 1) // 2 for n, c in zip(self.new, self.cached))
        return 2 * g.heads * scores * (2 * g.shared + g.key + g.value)


def random_case(rng):
    g, groups = rng.choice(GEOMETRIES), rng.choice([1, 2, 3])
    batch = rng.choice([1, 2, 5])
    return dict(
        geometry=g._replace(groups=groups, heads=groups * rng.choice([1, 2, 4])), page_size=rng.choice(PAGES),
        new=[rng.choice([0, 1, 128, rng.randint(1, 600)]) for _ in range(batch)] + [rng.randint(1, 50)],
        cached=[rng.choice([0, 1, 64, rng.randint(0, 1500)]) for _ in range(batch + 1)],
        window=rng.choice([None, None, 1, 100, 1000]), seed=rng.randint(0, 2**31))


def run_cases(count, seed):
    """Returns how many random cases fail."""
    seed = seed if seed is not None else random.SystemRandom().randint(0, 2**31)
    rng, failed, worst = random.Random(seed), 0, 0.0
    for _ in range(count):
        case = random_case(rng)
        error, same = PrefillCase(**case).check()
        if error < TOLERANCE and same:
            worst = max(worst, error)
        else:
            failed += 1
            if failed <= 8:
                print("FAILED", error, "repeatable" if same else "NOT THE SAME BITS", case, flush=True)
    print(f"prefill: {count - failed} of {count} random cases pass, worst relative error {worst:.1e} (seed {seed})", flush=True)
    return failed


def time_rows():
    from decode import time_graph

    for name, geometry, new, cached, batch in ROWS:
        case = PrefillCase(geometry, [new] * batch, [cached] * batch, 64)
        error, same = case.check(sample=2)
        plain, rested = time_graph(case.run, launches=10), time_graph(case.run, launches=2, rest=0.02)
        print(
            f"{name:8} {batch:2} x {new:5} after {cached:6} | {plain:8.1f} us ({rested:8.1f} rested) "
            f"{case.flops() / plain / 1e6:4.0f} TFLOP/s | {'right' if error < TOLERANCE and same else 'WRONG'} {error:.1e}",
            flush=True)


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=200, help="random cases")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--no-timing", action="store_true")
    options = parser.parse_args(arguments)
    failed = run_cases(options.cases, options.seed)
    if not options.no_timing:
        time_rows()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
