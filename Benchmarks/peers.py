#!/usr/bin/env python3
"""Measure apus against llama.cpp on the same files, in the same run.

    Benchmarks/peers.py --peer DIR smollm2.gguf llama125m-q8_0.gguf
    Benchmarks/peers.py --peer DIR --batch 16 --prompt 128 --generate 128 smollm2.gguf
    Benchmarks/peers.py smollm2.gguf                # no peer: apus alone

DIR holds llama-bench and llama-batched-bench, built for this machine. The two programs take
turns, so that a machine that gets slower or faster meets both; each figure is the median of
--repeats turns, and the ratio is the median of the turns' ratios. The peak memory of apus and its
time from start to the end of a one-token answer to a 16-token prompt are measured beside them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DEFAULT_APUS = Path(__file__).resolve().parents[1] / ".build" / "release" / "apus"


class BenchmarkError(Exception):
    pass


def run(command):
    """Return (standard output, seconds, peak resident bytes) of `command`."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as messages:
        start = time.monotonic()
        process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=output, stderr=messages)
        # wait4, not wait: it reports the memory of this one process.
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        messages.seek(0)
        if process.returncode != 0:
            tail = messages.read().decode(errors="replace").strip()[-400:]
            raise BenchmarkError(f"{command[0]} exited with {process.returncode}: {tail}")
        return output.read().decode(), seconds, usage.ru_maxrss * 1024


def apus_rows(options, file, prompt, generate, batch):
    """Tokens a second of apus: {"prompt": ..., "generation": ...}."""
    output, seconds, memory = run([
        options.apus, "bench", "decode", file, "--threads", options.threads, "--prompt", prompt, "--generate", generate,
        "--batch", batch, "--repeats", 1, "--json",
    ])  # fmt: skip
    rates = {}
    for row in json.loads(output):
        rates["generation" if row["generate"] else "prompt"] = row["tokensPerSecond"]
    return rates, seconds, memory


def peer_rows(options, file):
    """Tokens a second of llama-bench, or of llama-batched-bench for more than one sequence."""
    if options.batch == 1:
        output, _, _ = run([
            options.peer / "llama-bench", "-m", file, "-t", options.threads, "-p", options.prompt, "-n", options.generate,
            "-r", 1, "-o", "json",
        ])  # fmt: skip
        return {"generation" if row["n_gen"] else "prompt": row["avg_ts"] for row in json.loads(output)}
    context = options.batch * (options.prompt + options.generate)
    output, _, _ = run([
        options.peer / "llama-batched-bench", "-m", file, "-t", options.threads, "-c", context, "-b", 2048, "-ub", 512,
        "-npp", options.prompt, "-ntg", options.generate, "-npl", options.batch, "--output-format", "jsonl",
    ])  # fmt: skip
    row = next(json.loads(line) for line in output.splitlines() if line.startswith("{"))
    return {"prompt": row["speed_pp"], "generation": row["speed_tg"]}


def measure(options, file):
    """The turns of both programs on one file."""
    apus, peer = [], []
    for turn in range(options.repeats):
        sides = [
            lambda: apus.append(apus_rows(options, file, options.prompt, options.generate, options.batch)[0]),
            lambda: peer.append(peer_rows(options, file)) if options.peer else None,
        ]
        # Who goes first alternates too.
        for side in sides if turn % 2 == 0 else reversed(sides):
            side()
    results = []
    for kind in ("prompt", "generation"):
        rates = [turn[kind] for turn in apus if kind in turn]
        if not rates:
            continue
        result = {
            "file": file.name,
            "kind": kind,
            "prompt": options.prompt,
            "generate": options.generate,
            "batch": options.batch,
            "threads": options.threads,
            "apus": statistics.median(rates),
            "apusTurns": rates,
        }
        if peer:
            theirs = [turn[kind] for turn in peer]
            result |= {
                "peer": statistics.median(theirs),
                "peerTurns": theirs,
                "ratio": statistics.median(ours / other for ours, other in zip(rates, theirs, strict=True)),
            }
        results.append(result)
    return results


def footprint(options, file):
    """Peak memory with a context of --context tokens, and start to first token."""
    generate = 64
    _, _, memory = apus_rows(options, file, options.context - generate, generate, 1)
    seconds = statistics.median(apus_rows(options, file, 16, 1, 1)[1] for _ in range(options.repeats))
    return {"file": file.name, "context": options.context, "peakMegabytes": memory / 1e6, "startToFirstTokenSeconds": seconds}


def print_table(results):
    print(f"{'file':34} {'setting':26} {'apus t/s':>10} {'peer t/s':>10} {'ratio':>7}")
    for row in results:
        length = row["prompt"] if row["kind"] == "prompt" else row["generate"]
        setting = f"{row['kind']} {length}" + (f", batch {row['batch']}" if row["batch"] > 1 else "")
        peer = f"{row['peer']:10.1f} {row['ratio']:7.2f}" if "peer" in row else f"{'-':>10} {'-':>7}"
        print(f"{row['file'][:34]:34} {setting:26} {row['apus']:10.1f} {peer}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="GGUF files")
    parser.add_argument("--apus", type=Path, default=DEFAULT_APUS, help="the apus command (default: the release build)")
    parser.add_argument("--peer", type=Path, help="the folder of llama-bench and llama-batched-bench")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512, help="prompt tokens per sequence")
    parser.add_argument("--generate", type=int, default=128, help="generated tokens per sequence")
    parser.add_argument("--batch", type=int, default=1, help="sequences at once")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each program")
    parser.add_argument("--context", type=int, default=2048, help="tokens of context while peak memory is measured")
    parser.add_argument("--no-footprint", action="store_true", help="leave out memory and time to first token")
    parser.add_argument("--json", type=Path, help="write the results, every turn included, to this file")
    options = parser.parse_args()

    results, footprints = [], []
    try:
        for file in options.files:
            results += measure(options, file)
            if not options.no_footprint:
                footprints.append(footprint(options, file))
    except (BenchmarkError, OSError, KeyError, json.JSONDecodeError) as failure:
        print(f"error: {type(failure).__name__}: {failure}", file=sys.stderr)
        return 1
    print_table(results)
    for row in footprints:
        print(
            f"{row['file']}: peak memory {row['peakMegabytes']:.0f} MB at context {row['context']}, "
            f"start to first token {row['startToFirstTokenSeconds']:.2f} s"
        )
    if options.json:
        options.json.write_text(json.dumps({"rates": results, "footprints": footprints}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
