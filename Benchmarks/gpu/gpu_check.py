"""Checks the latent decode kernels against float64 on random cases, then times the table of settings.

usage: gpu_check.py [--cases N] [--no-timing] [--rows i,j,...]
"""

import argparse
import ctypes
import os
import random
import sys

import torch

import nvrtc
from driver import Kernel
from latent import Latent, time_graph

# query heads, latent heads, d_c, query tokens, KV length, batch, microseconds to reach
ROWS = [
    (128, 2, 256, 1, 8192, 128, 430), (128, 2, 256, 2, 8192, 128, 450), (128, 2, 256, 4, 8192, 64, 455),
    (128, 2, 256, 1, 2048, 128, 118), (128, 2, 256, 2, 2048, 128, 132), (128, 2, 256, 1, 8192, 16, 62),
    (128, 2, 256, 2, 8192, 16, 68), (128, 2, 256, 1, 32768, 1, 28), (128, 2, 256, 1, 131072, 1, 62),
    (16, 1, 256, 1, 8192, 128, 230), (16, 1, 256, 2, 8192, 128, 230), (64, 1, 256, 2, 8192, 128, 240),
]
# MLA 512 + 64 with all query heads on the one latent; to reach: FlashMLA's time x 1.03, or / 1.2 and / 1.1 where the
# batch is small.
WIDE_ROWS = [
    (128, 1, 512, 1, 8192, 128, 528), (128, 1, 512, 2, 8192, 128, 873), (128, 1, 512, 4, 8192, 64, 910),
    (128, 1, 512, 1, 2048, 128, 148), (128, 1, 512, 2, 2048, 128, 275), (128, 1, 512, 1, 8192, 16, 71),
    (128, 1, 512, 2, 8192, 16, 122), (128, 1, 512, 1, 32768, 1, 42), (128, 1, 512, 1, 131072, 1, 77),
    (16, 1, 512, 1, 8192, 128, 428), (16, 1, 512, 2, 8192, 128, 428),
]


def anchors():
    """Read bandwidth in TB/s and the bf16 product rate in TFLOP/s."""
    a = torch.empty(2**32, dtype=torch.uint8, device="cuda").random_()
    result = torch.zeros(1, dtype=torch.int32, device="cuda")
    here = os.path.dirname(os.path.abspath(__file__))
    read = Kernel(nvrtc.compile_kernel("bandwidth.cu", {}, folder=here), "read_all")
    words = ctypes.c_longlong(a.numel() // 16)
    reading = time_graph(lambda i: read(132 * 4, 512, a, words, result), launches=2, repeats=9)
    m = torch.randn(8192, 8192, device="cuda").bfloat16()
    n = torch.randn(8192, 8192, device="cuda").bfloat16()
    c = torch.empty_like(m)
    product = time_graph(lambda i: torch.mm(m, n, out=c), launches=4, repeats=5)
    return a.numel() / reading / 1e6, 2 * 8192**3 / product / 1e6


def random_case(rng):
    d_c, d_r = rng.choice([(256, 64)] * 4 + [(512, 64)] * 3 + [(384, 32), (128, 32), (192, 32), (192, 48), (256, 32)])
    latent_heads = rng.choice([1, 1, 2, 2, 3, 4, 8])
    per_latent = rng.choice([8, 12, 16, 32, 64, 128])
    tokens = rng.choice([1, 1, 2, 2, 3, 4, 5, 8, 16])
    page_size = rng.choice([1, 16, 64, 64, 128])
    batch = rng.choice([1, 2, 3, 7, 20])
    top = rng.choice([70, 600, 4000])
    lengths = [rng.choice([0, 1, rng.randint(0, 130), rng.randint(1, top)]) for _ in range(batch)]
    return dict(
        heads=latent_heads * per_latent, latent_heads=latent_heads, d_c=d_c, d_r=d_r, query_tokens=tokens, lengths=lengths,
        page_size=page_size, poison=True, gain=rng.choice([1.0, 1.0, 0.1, 30.0]), seed=rng.randint(0, 2**31),
        slack=rng.choice([0, 5]))


def run_cases(count, seed=None):
    seed = seed if seed is not None else random.SystemRandom().randint(0, 2**31)
    rng = random.Random(seed)
    failed, worst = 0, 0.0
    for i in range(count):
        case = random_case(rng)
        error, lse, repeatable = Latent(**case).check()
        ok = error < 5e-3 and lse == 0 and repeatable
        worst = max(worst, error) if error == error else worst
        if not ok:
            failed += 1
            if failed <= 8:
                print("FAILED", error, lse, repeatable, case, flush=True)
    print(f"{count - failed} of {count} random cases pass, worst relative error {worst:.2e} (seed {seed})", flush=True)
    return failed


def time_rows(rows, bandwidth, rate, variants=({},), page_size=64):
    for heads, latents, d_c, tokens, length, batch, bar in rows:
        bytes_ = batch * length * (latents * d_c + 64) * 2
        ring = max(1, -(-512 * 2**20 // bytes_))
        for variant in variants:
            try:
                case = Latent(heads, latents, d_c, 64, tokens, [length] * batch, page_size, ring=ring, **variant)
                error, lse, repeatable = case.check(sample=2)
                plain = time_graph(lambda i: case.run(i))
                overlapped = time_graph(lambda i: case.run(i, overlap=True))
                rested = time_graph(lambda i: case.run(i), rest=0.02)
            except RuntimeError as problem:
                print(heads, tokens, length, batch, variant, "failed:", problem, flush=True)
                torch.cuda.synchronize()
                continue
            kv, io = case.bytes()
            floor = max((kv + io) / bandwidth / 1e6, case.flops() / rate / 1e6)
            right = "right" if error < 5e-3 and lse == 0 and repeatable else f"WRONG {error} {lse} {repeatable}"
            print(
                f"{heads:3}/{latents} q{tokens} {length:6} x{batch:3} page {page_size:3} | bar {bar:4} | {plain:6.1f} us "
                f"({overlapped:6.1f} overlapped, {rested:6.1f} rested) | floor {floor:5.1f}, {100 * floor / plain:3.0f} % | "
                f"{kv / plain / 1e6:.2f} TB/s {case.flops() / plain / 1e6:4.0f} TFLOP/s | {right} {error:.1e} "
                f"splits {int(case.split_count)} {variant or ''}", flush=True)
            del case
            torch.cuda.empty_cache()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--no-timing", action="store_true")
    parser.add_argument("--rows")
    parser.add_argument("--page-size", type=int, default=64)
    arguments = parser.parse_args()
    print(torch.cuda.get_device_name(), flush=True)
    failed = run_cases(arguments.cases)
    if not arguments.no_timing:
        bandwidth, rate = anchors()
        print(f"read {bandwidth:.2f} TB/s, bf16 product {rate:.0f} TFLOP/s", flush=True)
        rows = ROWS + WIDE_ROWS if not arguments.rows else [(ROWS + WIDE_ROWS)[int(i)] for i in arguments.rows.split(",")]
        time_rows(rows, bandwidth, rate, page_size=arguments.page_size)
    sys.exit(1 if failed else 0)
