"""Serving: one tensor-parallel rank of the paper's model shape on one GPU, GLA-8 against MLA.

usage: serving_rank.py [--dry-run] [--steps N] [--json FILE] [--plot FILE] [--all-reduce-us U] [--lengths 8192,...]

Needs PyTorch on a Hopper GPU; --dry-run needs neither and prints bytes, capacity and floors. Method: docs/serving-rank.md.
A decode step is one CUDA graph over all 60 layers, weights random; the other seven ranks and their collectives are not there.
"""

import argparse
import json
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

import serving_rank_settings as s

# Bytes a second and operations a second of the floors: an H200's memory, FP8 products at a bf16 product's measured rate.
BANDWIDTH, RATE = 4.8e12, 7.9e14
QUERY_TOKENS = (1, 2)
CHECK_LENGTHS = [300, 1000, 129]
PREFILL_CONTEXTS = (0, 24576, 122880)


def rows(measure, prefill, all_reduce, lengths):
    """One dictionary per variant, lengths, concurrency and query tokens. `measure(variant, prompt, output, running, tokens)`
    gives figures of a step with `step` in seconds, `prefill(variant, prompt)` seconds."""
    found = []
    for prompt, output, concurrencies in s.SETTINGS:
        if lengths and prompt not in lengths:
            continue
        for tokens in QUERY_TOKENS:
            for variant in s.LATENTS:
                room, known = s.capacity(variant, prompt + output), {}
                for concurrency in concurrencies:
                    running = min(concurrency, room)
                    if running not in known:
                        known[running] = measure(variant, prompt, output, running, tokens)
                    figures, waiting = known[running], prefill(variant, prompt)
                    rate, mean = s.served(running, output, figures["step"], waiting, tokens)
                    joined, _ = s.served(running, output, figures["step"] + 2 * s.LAYERS * all_reduce, waiting, tokens)
                    weights, cache = s.step_bytes(variant, running, tokens, prompt + output // 2, figures.get("touched"))
                    found.append(dict(
                        figures, variant=variant, prompt=prompt, output=output, query_tokens=tokens, concurrency=concurrency,
                        capacity=room, running=running, prefill=waiting, mean_step=mean, tokens_per_second=rate,
                        with_all_reduces=joined, floor=(weights + cache) / BANDWIDTH, weight_bytes=weights, cache_bytes=cache))
    return found


def table(found):
    print(
        "prompt/output | q | conc. | variant | capacity | running | step ms (floor) | mean step ms | prefill s | output tok/s | "
        "with all-reduces")
    for row in found:
        print(
            f"{row['prompt']:6}/{row['output']} | {row['query_tokens']} | {row['concurrency']:3} | {row['variant']:5} | "
            f"{row['capacity']:3} | {row['running']:3} | {row['step'] * 1e3:6.2f} ({row['floor'] * 1e3:5.2f}) | "
            f"{row['mean_step'] * 1e3:6.2f} | {row['prefill']:6.3f} | {row['tokens_per_second']:7.0f} | {row['with_all_reduces']:7.0f}")
    for gla in found:
        for mla in found:
            same = all(gla[k] == mla[k] for k in ("prompt", "output", "concurrency", "query_tokens"))
            if same and (gla["variant"], mla["variant"]) == ("GLA-8", "MLA"):
                ratio = lambda key: gla[key] / mla[key]
                print(
                    f"{gla['prompt']:6}/{gla['output']} q{gla['query_tokens']} concurrency {gla['concurrency']:3}: GLA-8 / MLA = "
                    f"{ratio('tokens_per_second'):.2f} (sequences {ratio('running'):.2f}, step time {ratio('step'):.2f}; "
                    f"with all-reduces {ratio('with_all_reduces'):.2f})")


def plot(found):
    """An SVG of bars: output tokens/s by lengths and concurrency, one query token."""
    bars = [row for row in found if row["query_tokens"] == 1]
    places = sorted({(row["prompt"], row["concurrency"]) for row in bars})
    top = max(row["tokens_per_second"] for row in bars)
    width, height, foot = 70 * len(places) + 80, 320, 60
    colors = dict(zip(s.LATENTS, ("#1f6fb2", "#c8702a")))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height + foot}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height + foot}" fill="white"/>',
        '<text x="60" y="16" font-size="13">Output tokens/s of one rank: prompt, concurrency (running)</text>']
    for i in range(5):
        y = height - i * (height - 50) / 4
        parts.append(f'<line x1="60" x2="{width - 10}" y1="{y}" y2="{y}" stroke="#ddd"/><text x="54" y="{y + 4}" text-anchor="end">{top * i / 4:.0f}</text>')
    for row in bars:
        variant = list(s.LATENTS).index(row["variant"])
        x = 70 + 70 * places.index((row["prompt"], row["concurrency"])) + 27 * variant
        tall = row["tokens_per_second"] / top * (height - 50)
        parts.append(f'<rect x="{x}" y="{height - tall:.1f}" width="25" height="{tall:.1f}" fill="{colors[row["variant"]]}"/>')
        parts.append(f'<text x="{x + 12}" y="{height - tall - 4:.1f}" text-anchor="middle" font-size="9">{row["tokens_per_second"]:.0f}</text>')
        parts.append(f'<text x="{x + 12}" y="{height + 12}" text-anchor="middle" font-size="9">({row["running"]})</text>')
    for i, (prompt, concurrency) in enumerate(places):
        parts.append(f'<text x="{97 + 70 * i}" y="{height + 28}" text-anchor="middle">{prompt // 1024}K, {concurrency}</text>')
    for i, (name, color) in enumerate(colors.items()):
        parts.append(f'<rect x="{70 + 80 * i}" y="{height + 42}" width="12" height="12" fill="{color}"/><text x="{86 + 80 * i}" y="{height + 52}">{name}</text>')
    return "\n".join(parts + ["</svg>", ""])


def dry_run(arguments):
    """The floors as if they were measured."""
    for variant in s.LATENTS:
        w = s.weight_bytes(variant)
        whole = s.LAYERS * w["attention"] + w["dense"] + 2 * w["head"]
        whole += (s.LAYERS - 1) * (w["router"] + w["expert"] * (s.EXPERTS + s.SHARED_EXPERTS))
        print(f"{variant}: weights {whole / 1e9:.1f} GB, cache {s.cache_bytes_per_token(variant)} bytes a token, {int(s.CACHE_BYTES // s.cache_bytes_per_token(variant))} tokens")

    def measure(variant, prompt, output, running, tokens):
        return dict(step=sum(s.step_bytes(variant, running, tokens, prompt + output // 2)) / BANDWIDTH)

    def prefill(variant, prompt):
        return sum(s.prefill_operations(variant, s.PREFILL_CHUNK, c) for c in range(0, prompt, s.PREFILL_CHUNK)) / RATE

    return rows(measure, prefill, arguments.all_reduce_us * 1e-6, arguments.lengths)


def measured(arguments):
    import numpy
    import torch

    from gpu_check import anchors
    from serving_rank_model import Experts, Rank, check_decode, check_prefill, time_prefill, time_steps

    bandwidth, rate = anchors()
    print(f"{torch.cuda.get_device_name()}: read {bandwidth:.2f} TB/s, bf16 product {rate:.0f} TFLOP/s", flush=True)
    experts, ranks, chunk_seconds = Experts(), {}, {}
    for variant in s.LATENTS:
        ranks[variant] = Rank(variant, experts)
        for tokens in QUERY_TOKENS:
            print(variant, "decode,", tokens, "query tokens:", check_decode(ranks[variant], CHECK_LENGTHS, tokens), flush=True)
        print(variant, "prefill:", check_prefill(ranks[variant], 1024, 512), flush=True)
        chunk_seconds[variant] = [time_prefill(ranks[variant], context) for context in PREFILL_CONTEXTS]
        for context, seconds in zip(PREFILL_CONTEXTS, chunk_seconds[variant]):
            done = s.prefill_operations(variant, s.PREFILL_CHUNK, context)
            print(f"{variant} prefill of {s.PREFILL_CHUNK} after {context}: {seconds * 1e3:.1f} ms, {done / seconds / 1e12:.0f} TFLOP/s", flush=True)

    def measure(variant, prompt, output, running, tokens):
        begun = time.perf_counter()
        figures = time_steps(ranks[variant], prompt, output, running, tokens, arguments.steps)
        print(
            f"{variant} {prompt}/{output}, {running} running, q{tokens}: {figures['step'] * 1e3:.3f} ms, "
            f"{figures['touched']:.1f} experts ({time.perf_counter() - begun:.1f} s)", flush=True)
        return figures

    def prefill(variant, prompt):
        return float(sum(numpy.interp(c, PREFILL_CONTEXTS, chunk_seconds[variant]) for c in range(0, prompt, s.PREFILL_CHUNK)))

    return rows(measure, prefill, arguments.all_reduce_us * 1e-6, arguments.lengths)


def main(words):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--steps", type=int, default=200, help="decode steps that are timed")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="an SVG")
    parser.add_argument("--all-reduce-us", type=float, default=35, help="of one of the two all-reduces of a layer")
    parser.add_argument("--lengths", type=lambda text: [int(word) for word in text.split(",")], help="prompts, of those known")
    arguments = parser.parse_args(words)
    found = dry_run(arguments) if arguments.dry_run else measured(arguments)
    table(found)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    if arguments.plot:
        arguments.plot.write_text(plot(found))


if __name__ == "__main__":
    main(sys.argv[1:])
