"""Checks training attention against float64 on random cases, then times it beside PyTorch's on the same card.

usage: training_attention.py [--cases N] [--seed S] [--no-timing] [--rows 0,2,...] [--variants] [--emulate]

Needs PyTorch on a Hopper GPU; with --emulate a C++ compiler and numpy instead, and small cases run on the CPU. The protocol of
the timing is decode.py's: launches in a CUDA graph, the median of 15 replays. TFLOP/s are counted as papers do: 4 x rows x keys
x width forward, of which causal attention does half, and 2.5 times that backward.
"""

import argparse
import os
import random
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

from training_settings import Plan, Shape, View

CACHE = os.environ.get("APUS_CUBINS")
# A relative error that rounding explains: operands, P and dS in bf16; what is written as bf16 or added to is rounded again.
FORWARD, BACKWARD = 4e-3, 1e-2

# key, once, value; those up to 320 together have a backward pass.
WIDTHS = [
    (64, 0, 64), (64, 0, 64), (96, 0, 96), (128, 0, 128), (128, 0, 128), (48, 48, 96), (64, 64, 128), (128, 64, 128), (80, 0, 80),
    (256, 0, 256)]

# name, shape, length, batch; TFLOP/s to reach forward and backward (None: no bar).
ROWS = [
    ("bar", Shape(16, 16, 128, 0, 128), 4096, 8, 450, 350),
    ("long", Shape(16, 16, 128, 0, 128), 16384, 2, None, None),
    ("SmolLM2", Shape(9, 3, 64, 0, 64), 1024, 16, None, None),
    ("114M", Shape(12, 4, 64, 0, 64), 1024, 32, None, None),
    ("GTA", Shape(16, 4, 64, 64, 128), 4096, 8, None, None),
    ("MLA", Shape(16, 16, 128, 64, 128), 4096, 8, None, None),
]

# What --variants times at the bar's shape beside the settings as they are: changes of the forward and of the backward kernels.
VARIANTS = [
    ({}, {}), ({"TURNS": 0}, {"TURNS": 0}), ({"BLOCK_N": 64}, {"BLOCK_N": 96}), ({"BLOCK_N": 64, "TURNS": 0}, {"BLOCK_M": 32})]


def random_case(rng, longest):
    key, once, value = rng.choice(WIDTHS)
    kv = rng.choice([1, 2, 3])
    lengths = [rng.choice([0, 1, 64, 127, 128, 129, rng.randint(1, longest)]) for _ in range(rng.choice([1, 2, 5]))]
    lengths.append(rng.randint(1, 64))
    wide = rng.random() < 0.3
    return dict(
        shape=Shape(kv * rng.choice([1, 2, 3]), kv, key, once, value), lengths=lengths,
        window=rng.choice([None, None, 1, 100, 128, rng.randint(1, longest)]), float32=wide, gradients_float32=rng.random() < 0.5,
        adds=rng.random() < 0.3, gain=rng.choice([1.0, 1.0, 0.1, 8.0]), seed=rng.randint(0, 2**31))


def has_backward(shape):
    return shape.key + shape.once + shape.value <= 320


class GPUCase:
    """Random operands on the GPU, packed as layers pack them, and the launches of a plan."""

    def __init__(self, shape, lengths, window=None, float32=False, gradients_float32=False, adds=False, gain=1.0, seed=0,
                 forward={}, backward={}):
        import torch

        import driver
        import nvrtc

        self.torch, self.driver = torch, driver
        generator = torch.Generator("cuda").manual_seed(seed)
        randn = lambda *n: torch.randn(n, device="cuda", generator=generator)
        starts = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
        self.shape, self.starts, tokens = shape, starts, starts[-1]
        self.plan = plan = Plan(shape, starts, (shape.key + shape.once) ** -0.5, window, float32, gradients_float32, adds, forward, backward)
        widths = [shape.key + shape.once, shape.key, shape.once, shape.value]
        self.heads, self.widths = [shape.heads, shape.kv_heads, 1, shape.kv_heads], widths
        self.cuts = [sum(h * w for h, w in list(zip(self.heads, widths))[:i]) for i in range(5)]
        columns = -(-self.cuts[4] // 8) * 8
        self.memory = randn(tokens, columns)
        self.memory[:, : self.cuts[1]] *= gain
        self.memory = self.memory.bfloat16()
        kind = torch.float32 if gradients_float32 else torch.bfloat16
        self.gradients = randn(tokens, columns).to(kind) if adds else torch.full((tokens, columns), float("nan"), device="cuda", dtype=kind)
        self.before = self.gradients.clone()
        views = lambda x: [
            View(x.data_ptr() + x.element_size() * cut, h, w, columns, w) if w else None
            for cut, h, w in zip(self.cuts, self.heads, widths)]
        self.views, self.targets = views(self.memory), views(self.gradients)
        shape_of_output = tokens, shape.heads, shape.value
        self.output = torch.full(shape_of_output, float("nan"), device="cuda", dtype=torch.float32 if float32 else torch.bfloat16)
        self.lse = torch.full((tokens, shape.heads), float("nan"), device="cuda")
        self.gradient = randn(*shape_of_output).bfloat16()
        self.rows = torch.full((shape.heads, plan.padded, 2), float("nan"), device="cuda")
        self.once = torch.full((shape.kv_heads, tokens, max(1, shape.once)), float("nan"), device="cuda")
        self.items = [torch.from_numpy(i).cuda() for i in (plan.row_items, plan.key_items)]
        self.counters = torch.zeros(2, dtype=torch.int32, device="cuda")
        self.blocks = torch.cuda.get_device_properties(0).multi_processor_count

        def kernel(name, definitions, shared=0):
            cubin = nvrtc.compile_kernel(name + ".cu", definitions, cache=CACHE, folder=nvrtc.TENSOR_KERNELS)
            return driver.Kernel(cubin, name, shared)

        self.forward_kernel = kernel("attention_forward", plan.forward_definitions, plan.forward_shared)
        self.backward_kernels = []
        if has_backward(shape):
            names = "attention_backward_queries", "attention_backward_keys"
            self.backward_kernels = [kernel(n, d, shared) for n, (d, shared) in zip(names, plan.backward_settings)]
            self.backward_kernels.append(kernel("attention_once", dict(FLOAT32=int(gradients_float32), ADDS=int(adds))))

    def forward(self, _=0):
        self.plan.forward(
            self.driver, self.forward_kernel, self.views, self.items[0].data_ptr(), self.counters.data_ptr(),
            self.output.data_ptr(), self.lse.data_ptr(), self.blocks)

    def backward(self, _=0, only=None):
        kernels = [k if only in (None, i) else None for i, k in enumerate(self.backward_kernels)]
        self.plan.backward(
            self.driver, kernels, self.views, [i.data_ptr() for i in self.items], self.counters.data_ptr(),
            self.output.data_ptr(), self.gradient.data_ptr(), self.lse.data_ptr(), self.rows.data_ptr(), self.once.data_ptr(),
            self.targets, self.blocks)

    def part(self, x, i):
        cut, heads, width = self.cuts[i], self.heads[i], self.widths[i]
        return x[:, cut : cut + heads * width].unflatten(1, (heads, width)) if width else None

    def errors(self, sample=None):
        """Relative errors: the output, 1e3 x the log-sum-exp, and the gradients of queries, keys, keys kept once, values.

        With `sample`, of so many sequences and heads of the output only.
        """
        torch, shape, plan = self.torch, self.shape, self.plan
        query, key, once, value = (None if self.part(self.memory, i) is None else self.part(self.memory, i).double() for i in range(4))
        sums = [None if x is None else torch.zeros_like(x) for x in (query, key, once, value)]
        worst = [0.0, 0.0]
        pairs = [(b, h) for b in range(len(self.starts) - 1) for h in range(shape.heads) if self.starts[b] < self.starts[b + 1]]
        for b, head in random.sample(pairs, min(sample, len(pairs))) if sample else pairs:
            rows, kv = slice(self.starts[b], self.starts[b + 1]), head // plan.group
            k = key[rows, kv] if once is None else torch.cat([key[rows, kv], once[rows, 0]], 1)
            s = query[rows, head] @ k.T * plan.scale
            at = torch.arange(len(s), device="cuda")
            far = at[:, None] - at[None]
            s = s.masked_fill((far < 0) | (far >= plan.window), -torch.inf)
            lse = torch.logsumexp(s, 1)
            weights = torch.exp(s - lse[:, None])
            output = weights @ value[rows, kv]
            worst[0] = max(worst[0], float((self.output[rows, head].double() - output).norm() / output.norm()))
            worst[1] = max(worst[1], 1e3 * float(((self.lse[rows, head].double() - lse).abs() / (1 + lse.abs())).max()))
            if sample or not self.backward_kernels:
                continue
            g = self.gradient[rows, head].double()
            d_scores = weights * (g @ value[rows, kv].T - (g * output).sum(1, keepdim=True)) * plan.scale
            d_key = d_scores.T @ query[rows, head]
            sums[0][rows, head] = d_scores @ k
            sums[1][rows, kv] += d_key[:, : shape.key]
            if once is not None:
                sums[2][rows, 0] += d_key[:, shape.key :]
            sums[3][rows, kv] += weights.T @ g
        if sample or not self.backward_kernels:
            return worst
        found = self.gradients.double() - (self.before.double() if plan.adds else 0)
        for i, expected in enumerate(sums):
            if expected is not None:
                floor = 0.1 * expected.numel() ** 0.5
                worst.append(float((self.part(found, i) - expected).norm() / max(float(expected.norm()), floor)))
        return worst

    def check(self):
        """Errors, and whether a second run gave the same bits."""
        torch, runs = self.torch, []
        for _ in range(2):
            self.output.fill_(float("nan"))
            self.lse.fill_(float("nan"))
            self.gradients.copy_(self.before)
            self.forward()
            if self.backward_kernels:
                self.backward()
            torch.cuda.synchronize()
            runs.append([x.clone() for x in (self.output, self.lse, self.gradients)])
        bits = lambda x: x.view(torch.int16 if x.element_size() == 2 else torch.int32)
        return self.errors(), all(torch.equal(bits(a), bits(b)) for a, b in zip(*runs))


def emulated_errors(case):
    """The same of a case on the CPU; (errors, whether late copies and products gave the same bits)."""
    sys.path[:0] = [str(HERE.parents[1] / "Tests/Emulation")]
    import numpy
    from attention import Case

    runs = []
    for options in ({}, dict(lazy=True, seed=3)):
        c = Case(**case)
        c.run_forward(**options)
        if has_backward(case["shape"]):
            c.run_backward(**options)
        runs.append(c)
    error, off = c.forward_errors()
    same = all(numpy.array_equal(getattr(runs[0], n).view(numpy.uint8), getattr(runs[1], n).view(numpy.uint8)) for n in ("output", "gradients"))
    return [error, 1e3 * off] + (c.backward_errors() if has_backward(case["shape"]) else []), same


def run_cases(count, seed, emulate):
    """Returns how many random cases fail."""
    seed = seed if seed is not None else random.SystemRandom().randint(0, 2**31)
    rng = random.Random(seed)
    failed, worst = 0, [0.0, 0.0]
    for _ in range(count):
        case = random_case(rng, 200 if emulate else 1500)
        errors, same = emulated_errors(case) if emulate else GPUCase(**case).check()
        # Large scores leave dS of terms that cancel; sums in bf16 are rounded to the size of what was there.
        loose = 3 if case["gain"] > 1 or case["adds"] and not case["gradients_float32"] else 1
        ok = same and all(e < FORWARD for e in errors[:1]) and errors[1] < 1 and all(e < BACKWARD * loose for e in errors[2:])
        if ok:
            worst = [max(worst[0], errors[0]), max([worst[1], *errors[2:]])]
        else:
            failed += 1
            if failed <= 8:
                print("FAILED", [f"{e:.1e}" for e in errors], "repeatable" if same else "NOT THE SAME BITS", case, flush=True)
    print(
        f"training attention: {count - failed} of {count} random cases pass, worst relative error forward {worst[0]:.1e}, "
        f"backward {worst[1]:.1e} (seed {seed})", flush=True)
    return failed


def peer_times(shape, length, batch):
    """Microseconds of PyTorch's attention forward and backward, keys kept once repeated for the heads before."""
    import torch
    from decode import time_graph
    from torch.nn.functional import scaled_dot_product_attention

    query, key, value = (
        torch.randn(batch, heads, length, width, device="cuda").bfloat16().requires_grad_()
        for heads, width in (
            (shape.heads, shape.key + shape.once), (shape.kv_heads, shape.key + shape.once), (shape.kv_heads, shape.value)))
    grouped = shape.heads != shape.kv_heads
    run = lambda: scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=grouped)
    with torch.no_grad():
        forward = time_graph(lambda _: run(), launches=4)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        output = run()
        gradient = torch.randn_like(output)
        both = time_graph(lambda _: torch.autograd.grad(run(), (query, key, value), gradient), launches=2)
    return forward, both - forward


def time_rows(rows):
    import torch
    from decode import time_graph

    a, b = (torch.randn(8192, 8192, device="cuda").bfloat16() for _ in range(2))
    product = torch.empty_like(a)
    rate = 2 * 8192**3 / time_graph(lambda _: torch.mm(a, b, out=product), launches=4, repeats=5) / 1e6
    print(f"bf16 product {rate:.0f} TFLOP/s", flush=True)
    for name, shape, length, batch, *bars in rows:
        try:
            case = GPUCase(shape, [length] * batch)
            # All in float64 where that takes no more than a second or two.
            whole = batch * shape.heads * length**2 <= 2**32
            if whole:
                errors, same = case.check()
            else:
                case.forward()
                case.backward()
                torch.cuda.synchronize()
                errors, same = case.errors(sample=2), True
            flops = 2 * batch * shape.heads * length * length * (shape.key + shape.once + shape.value) / 2
            kernels = [time_graph(case.forward, launches=10), time_graph(case.backward, launches=4)]
            rested = [time_graph(case.forward, launches=2, rest=0.02), time_graph(case.backward, launches=1, rest=0.02)]
            try:
                peer = peer_times(shape, length, batch)
            except RuntimeError as problem:
                peer = None
                print(f"{name}: PyTorch: {str(problem).splitlines()[0]}", flush=True)
        except RuntimeError as problem:
            print(name, "failed:", problem, flush=True)
            continue
        found = [errors[0], max(errors[2:], default=None)]
        for i, what in enumerate(("forward", "backward")):
            limit = (FORWARD, BACKWARD)[i]
            right = "not checked" if found[i] is None else f"{'right' if found[i] < limit and same else 'WRONG'} {found[i]:.1e}"
            work = flops * (1, 2.5)[i]
            print(
                f"{name:8} {what:8} {batch:2} x {length:5} | bar {bars[i] or '-':>4} | {kernels[i]:8.1f} us ({rested[i]:8.1f} rested) "
                f"{work / kernels[i] / 1e6:4.0f} TFLOP/s | PyTorch " + (
                    f"{peer[i]:8.1f} us {work / peer[i] / 1e6:4.0f} TFLOP/s, ratio {peer[i] / kernels[i]:.2f}" if peer else "-")
                + f" | {right}", flush=True)
        del case
        torch.cuda.empty_cache()


def time_variants(name, shape, length, batch, *_):
    """Microseconds of each kernel under VARIANTS."""
    import torch
    from decode import time_graph

    for forward, backward in VARIANTS:
        try:
            case = GPUCase(shape, [length] * batch, forward=forward, backward=backward)
            errors, same = case.check()
        except RuntimeError as problem:
            print(name, forward, backward, "failed:", problem, flush=True)
            continue
        times = [time_graph(case.forward, launches=10)]
        times += [time_graph(lambda i: case.backward(i, only), launches=5) for only in (0, 1)]
        right = "right" if same and errors[0] < FORWARD and max(errors[2:]) < BACKWARD else f"WRONG {errors} {same}"
        print(
            f"{name} forward {forward or 'as it is'} {times[0]:.1f} us, backward {backward or 'as it is'} queries {times[1]:.1f} us, "
            f"keys {times[2]:.1f} us | {right}", flush=True)
        del case
        torch.cuda.empty_cache()


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=200, help="random cases")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--no-timing", action="store_true")
    parser.add_argument("--rows", help="numbers of the settings to time, 0,2,...")
    parser.add_argument("--emulate", action="store_true", help="small cases on the CPU, no timing")
    parser.add_argument("--variants", action="store_true", help="time other settings at the bar's shape, too")
    options = parser.parse_args(arguments)
    rows = ROWS if options.rows is None else [ROWS[int(i)] for i in options.rows.split(",")]
    failed = run_cases(options.cases, options.seed, options.emulate)
    if not options.no_timing and not options.emulate:
        time_rows(rows)
        if options.variants:
            time_variants(*ROWS[0])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
