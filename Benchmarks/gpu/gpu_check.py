"""Checks the decode kernels against float64 on random cases, then times the table of settings.

usage: gpu_check.py [--cases N] [--no-timing] [--rows i,j,...] [--page-size P]
"""

import argparse
import ctypes
import math
import random
import sys

import torch

import nvrtc
from decode import Decode, grouped, kernel, latent, tied, time_graph
from driver import Kernel

GLA, GLA_RANK, GLA_ONE, MLA, MLA_RANK = (
    latent(128, 2, 256, 64), latent(16, 1, 256, 64), latent(64, 1, 256, 64), latent(128, 1, 512, 64), latent(16, 1, 512, 64))
GTA4, GQA4, MHA = tied(64, 4, 128, 64), grouped(64, 4, 128), grouped(16, 16, 128)

# name, geometry, query tokens, KV length, batch, microseconds to reach (None: a share of the floor). For MLA:
# FlashMLA's time x 1.03, or / 1.2 and / 1.1 where the batch is small.
ROWS = [
    ("GLA-2 128", GLA, 1, 8192, 128, 430), ("GLA-2 128", GLA, 2, 8192, 128, 450), ("GLA-2 128", GLA, 4, 8192, 64, 455),
    ("GLA-2 128", GLA, 1, 2048, 128, 118), ("GLA-2 128", GLA, 2, 2048, 128, 132), ("GLA-2 128", GLA, 1, 8192, 16, 62),
    ("GLA-2 128", GLA, 2, 8192, 16, 68), ("GLA-2 128", GLA, 1, 32768, 1, 28), ("GLA-2 128", GLA, 1, 131072, 1, 62),
    ("GLA rank 16", GLA_RANK, 1, 8192, 128, 230), ("GLA rank 16", GLA_RANK, 2, 8192, 128, 230),
    ("GLA one 64", GLA_ONE, 2, 8192, 128, 240),
    ("MLA 128", MLA, 1, 8192, 128, 528), ("MLA 128", MLA, 2, 8192, 128, 873), ("MLA 128", MLA, 4, 8192, 64, 910),
    ("MLA 128", MLA, 1, 2048, 128, 148), ("MLA 128", MLA, 2, 2048, 128, 275), ("MLA 128", MLA, 1, 8192, 16, 71),
    ("MLA 128", MLA, 2, 8192, 16, 122), ("MLA 128", MLA, 1, 32768, 1, 42), ("MLA 128", MLA, 1, 131072, 1, 77),
    ("MLA rank 16", MLA_RANK, 1, 8192, 128, 428), ("MLA rank 16", MLA_RANK, 2, 8192, 128, 428),
    ("GTA-4 64", GTA4, 1, 8192, 64, None), ("GTA-4 64", GTA4, 2, 8192, 64, None), ("GQA-4 64", GQA4, 1, 8192, 64, None),
    ("GQA-4 64", GQA4, 2, 8192, 64, None), ("MHA 16", MHA, 1, 8192, 16, None),
]


def anchors():
    """Read bandwidth in TB/s and the bf16 product rate in TFLOP/s."""
    a = torch.empty(2**32, dtype=torch.uint8, device="cuda").random_()
    result = torch.zeros(1, dtype=torch.int32, device="cuda")
    read = Kernel(nvrtc.compile_kernel("check.cu", {}), "read_all")
    words = ctypes.c_longlong(a.numel() // 16)
    reading = time_graph(lambda i: read(132 * 4, 512, a, words, result), launches=2, repeats=9)
    m = torch.randn(8192, 8192, device="cuda").bfloat16()
    n = torch.randn(8192, 8192, device="cuda").bfloat16()
    c = torch.empty_like(m)
    product = time_graph(lambda i: torch.mm(m, n, out=c), launches=4, repeats=5)
    return a.numel() / reading / 1e6, 2 * 8192**3 / product / 1e6


def random_geometry(rng, family):
    if family == "latent":
        d_c, d_r = rng.choice([(256, 64)] * 4 + [(512, 64)] * 3 + [(384, 32), (128, 32), (192, 32), (192, 48), (256, 32)])
        latents = rng.choice([1, 1, 2, 2, 3, 4, 8])
        return latent(latents * rng.choice([8, 12, 16, 32, 64, 128]), latents, d_c, d_r)
    groups = rng.choice([1, 2, 3, 4, 8])
    if family == "tied":
        width, d_r = rng.choice([(64, 32), (96, 48), (128, 64)])
        return tied(groups * rng.choice([4, 8, 12, 16, 32]), groups, width, d_r)
    return grouped(groups * rng.choice([1, 2, 4, 8, 12, 32]), groups, rng.choice([64, 96, 128, 256]))


def random_case(rng, family):
    batch = rng.choice([1, 2, 3, 7, 20])
    top = rng.choice([70, 600, 4000])
    fp8 = family == "fp8"
    return dict(
        geometry=random_geometry(rng, rng.choice(["latent", "latent", "tied"]) if fp8 else family), fp8=fp8, query_tokens=rng.choice([1, 1, 2, 2, 3, 4, 5, 8, 16]),
        lengths=[rng.choice([0, 1, rng.randint(0, 130), rng.randint(1, top)]) for _ in range(batch)],
        page_size=rng.choice([16, 64, 64, 128] if fp8 else [1, 16, 64, 64, 128]), poison=True, gain=rng.choice([1.0, 1.0, 0.1, 30.0]),
        seed=rng.randint(0, 2**31), slack=rng.choice([0, 5]), any_scale=rng.choice([False, True]))


def run_cases(family, count, seed=None):
    """The fast kernel against float64, and in every tenth case the naive one too. Returns how many fail."""
    seed = seed if seed is not None else random.SystemRandom().randint(0, 2**31)
    rng = random.Random(seed)
    failed, worst, naive = 0, 0.0, 0.0
    for i in range(count):
        case = random_case(rng, family)
        setting = Decode(**case)
        error, repeatable = setting.check()
        ok = error < 5e-3 and repeatable
        if i % 10 == 0 and max(case["lengths"]) < 700:
            slow = setting.errors(*setting.naive())
            naive = max(naive, slow)
            ok = ok and slow < 1e-5
        if ok:
            worst = max(worst, error)
        else:
            failed += 1
            if failed <= 8:
                print("FAILED", error, repeatable, case, flush=True)
    print(
        f"{family}: {count - failed} of {count} random cases pass, worst relative error {worst:.2e}, "
        f"naive kernel {naive:.0e} (seed {seed})", flush=True)
    return failed


class AppendParams(ctypes.Structure):
    _fields_ = [(n, ctypes.c_void_p) for n in ("rows", "key", "weight", "inverse_frequencies", "cache", "page_table", "lengths")]
    _fields_ += [("page_bytes", ctypes.c_longlong), ("page_stride", ctypes.c_int), ("tokens", ctypes.c_int), ("groups", ctypes.c_int)]
    _fields_ += [("epsilon", ctypes.c_float), ("magnitude", ctypes.c_float)]


def append_error(rng):
    """A random append, with rotation and norm, into pages of 0xff: the largest relative error of a part against float64."""
    g = random_geometry(rng, rng.choice(["latent", "tied", "grouped"]))
    fp8 = bool(g.once and rng.random() < 0.5)
    page, tokens, batch = rng.choice([8, 16, 64] if fp8 else [1, 16, 64]), rng.choice([1, 2, 5]), rng.choice([1, 3, 8])
    lengths = [rng.choice([0, 1, 17, rng.randint(1, 500)]) for _ in range(batch)]
    norm, interleaved, rotated = int(g.value == 0 and rng.random() < 0.7), rng.randint(0, 1), g.key
    width, row = g.shared + g.value, g.shared + g.value + (0 if g.once else g.key)
    parts = g.groups * page * row * (1 if fp8 else 2), page * g.key * g.once * 2, g.groups * page * 4 * fp8
    used = [-(-n // page) for n in lengths]
    order = torch.randperm(sum(used) + 1, device="cuda").int()
    table = torch.full((batch, max(1, max(used))), 2**30, dtype=torch.int32, device="cuda")
    for b, count in enumerate(used):
        table[b, :count] = order[sum(used[:b]) : sum(used[:b]) + count]
    cache = torch.full((len(order), sum(parts)), 255, dtype=torch.uint8, device="cuda")
    rows = torch.randn(batch, tokens, g.groups, row, device="cuda").bfloat16()
    key = torch.randn(batch, tokens, g.key, device="cuda").bfloat16()
    weight = torch.rand(g.groups, width, device="cuda") + 0.5
    frequencies = 10000.0 ** (-2 * torch.arange(rotated // 2, device="cuda").double() / rotated)
    device_lengths = torch.tensor(lengths, dtype=torch.int32, device="cuda")
    defines = dict(
        SHARED=g.shared, VALUE=g.value, KEY=g.key, KEY_ONCE=g.once, PAGE_SIZE=page, FP8=int(fp8), NORM=norm, ROTATED=rotated,
        INTERLEAVED=interleaved)
    kernel("append.cu", "append", **defines)(
        (g.groups + g.once, tokens, batch), 128,
        AppendParams(
            rows.data_ptr(), key.data_ptr(), weight.data_ptr(), frequencies.data_ptr(), cache.data_ptr(), table.data_ptr(),
            device_lengths.data_ptr(), sum(parts), table.shape[1], tokens, g.groups, 1e-5, 1.0))
    worst = 0.0

    def rotate(x, position):
        x = x.clone()
        first = slice(0, None, 2) if interleaved else slice(0, rotated // 2)
        second = slice(1, None, 2) if interleaved else slice(rotated // 2, None)
        c, s = torch.cos(position * frequencies), torch.sin(position * frequencies)
        x[..., first], x[..., second] = x[..., first] * c - x[..., second] * s, x[..., second] * c + x[..., first] * s
        return x

    written = torch.zeros_like(cache, dtype=torch.bool)
    for b, n in enumerate(lengths):
        for t in range(tokens):
            position = n - tokens + t
            if position < 0:
                continue
            p, at = int(table[b, position // page]), position % page
            kept = cache[p, : parts[0]].view(torch.float8_e4m3fn if fp8 else torch.bfloat16).view(g.groups, page, row)[:, at].double()
            written[p, : parts[0]].view(g.groups, page, -1)[:, at] = True
            wanted = rows[b, t].double()
            if norm:
                wanted = wanted * torch.rsqrt(wanted.square().mean(-1, keepdim=True) + 1e-5) * weight.double()
            if not g.once:
                wanted[:, width:] = rotate(wanted[:, width:], position)
            if fp8:
                kept = kept * cache[p, parts[0] + parts[1] :].view(torch.float32).view(g.groups, page)[:, at, None].double()
                written[p, parts[0] + parts[1] :].view(g.groups, page, 4)[:, at] = True
            worst = max(worst, float((kept - wanted).norm() / wanted.norm()) / (16 if fp8 else 1))
            if g.once:
                kept = cache[p, parts[0] : parts[0] + parts[1]].view(torch.bfloat16).view(page, g.key)[at].double()
                written[p, parts[0] : parts[0] + parts[1]].view(page, -1)[at] = True
                wanted = rotate(key[b, t].double(), position)
                worst = max(worst, float((kept - wanted).norm() / wanted.norm()))
    return worst if bool((cache[~written] == 255).all()) else math.nan


def run_appends(count, seed=None):
    """Random appends; bf16 keeps 2e-3 of a row's norm, e4m3 sixteen times that. Returns how many fail."""
    rng = random.Random(seed)
    errors = [append_error(rng) for _ in range(count)]
    failed = sum(not error < 3e-3 for error in errors)
    print(f"append: {count - failed} of {count} random cases pass, worst relative error {max(errors):.2e}", flush=True)
    return failed


def time_rows(rows, bandwidth, rate, variants=({},), page_size=64):
    for name, geometry, tokens, length, batch, bar in rows:
        row = geometry.groups * (geometry.shared + geometry.value + geometry.key * (1 - geometry.once)) + geometry.key * geometry.once
        ring = max(1, -(-512 * 2**20 // (batch * length * row * 2)))
        for variant in variants:
            try:
                case = Decode(geometry, tokens, [length] * batch, page_size, ring=ring * (1 + variant.get("fp8", False)), **variant)
                error, repeatable = case.check(sample=2)
                plain = time_graph(lambda i: case.run(i))
                overlapped = time_graph(lambda i: case.run(i, overlap=True))
                rested = time_graph(lambda i: case.run(i), rest=0.02)
            except RuntimeError as problem:
                print(name, tokens, length, batch, variant, "failed:", problem, flush=True)
                torch.cuda.synchronize()
                continue
            kv, io = case.bytes()
            floor = max((kv + io) / bandwidth / 1e6, case.flops() / rate / 1e6)
            right = f"right {error:.1e}" if error < 5e-3 and repeatable else f"WRONG {error} {repeatable}"
            print(
                f"{name:11} q{tokens} {length:6} x{batch:3} page {page_size:3} | bar {bar or '-':>4} | {plain:6.1f} us "
                f"({overlapped:6.1f} overlapped, {rested:6.1f} rested) | floor {floor:5.1f}, {100 * floor / plain:3.0f} % | "
                f"{kv / plain / 1e6:.2f} TB/s {case.flops() / plain / 1e6:4.0f} TFLOP/s | {right} "
                f"splits {int(case.split_count)} {variant or ''}", flush=True)
            del case
            torch.cuda.empty_cache()


def time_ragged(seeds=5):
    """GLA-2, one query token: log-uniform lengths from 512 to 32768, rescaled to mean 8192, against equal ones."""
    equal = time_graph(Decode(GLA, 1, [8192] * 128, 64).run)
    for seed in range(seeds):
        rng = random.Random(seed)
        lengths = [math.exp(rng.uniform(math.log(512), math.log(32768))) for _ in range(128)]
        lengths = [round(n * 8192 * 128 / sum(lengths)) for n in lengths]
        case = Decode(GLA, 1, lengths, 64)
        error, repeatable = case.check(sample=2)
        took = time_graph(case.run)
        right = "right" if error < 5e-3 and repeatable else f"WRONG {error} {repeatable}"
        print(f"ragged, seed {seed}: {took:.1f} us, {took / equal * sum([8192] * 128) / sum(lengths):.3f} of equal lengths' {equal:.1f} | {right}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=200, help="random cases a family")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--no-timing", action="store_true")
    parser.add_argument("--rows")
    parser.add_argument("--page-size", type=int, default=64)
    arguments = parser.parse_args()
    print(torch.cuda.get_device_name(), flush=True)
    failed = sum(run_cases(family, arguments.cases, arguments.seed) for family in ("latent", "tied", "grouped", "fp8"))
    failed += run_appends(arguments.cases, arguments.seed)
    if not arguments.no_timing:
        bandwidth, rate = anchors()
        print(f"read {bandwidth:.2f} TB/s, bf16 product {rate:.0f} TFLOP/s", flush=True)
        rows = ROWS if not arguments.rows else [ROWS[int(i)] for i in arguments.rows.split(",")]
        time_rows(rows, bandwidth, rate, page_size=arguments.page_size)
        if arguments.page_size == 64:
            time_rows([row for row in rows if row[1].once and row[2] <= 2], bandwidth, rate, variants=({"fp8": True},))
            time_ragged()
    sys.exit(1 if failed else 0)
