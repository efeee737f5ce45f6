#!/usr/bin/env python3
"""Measure `apus tokenize` against Hugging Face's tokenizers on one thread, and compare the ids.

    pip install tokenizers
    Benchmarks/tokenizer.py tokenizer.json text.txt

Both read the text line by line. For apus the time is that of the whole command, printing included,
less that of the same command on no input (start and loading); for tokenizers it is the time in
`encode` alone, or in `encode_batch_fast` on one thread, whichever is faster. The programs take turns;
figures are medians. The exit code is 1 when any line's ids differ.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

# Set before tokenizers is loaded: it starts its threads then.
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

from tokenizers import Tokenizer  # noqa: E402

DEFAULT_APUS = Path(__file__).resolve().parents[1] / ".build" / "release" / "apus"


def apus_tokenize(options, data):
    start = time.monotonic()
    result = subprocess.run([options.apus, "tokenize", options.tokenizer], input=data, stdout=subprocess.PIPE, check=True)
    return time.monotonic() - start, result.stdout


def seconds_of(work):
    start = time.monotonic()
    work()
    return time.monotonic() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path, help="tokenizer.json")
    parser.add_argument("text", type=Path, help="a UTF-8 text file")
    parser.add_argument("--apus", type=Path, default=DEFAULT_APUS, help="the apus command (default: the release build)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()

    data = options.text.read_bytes()
    text = data.decode()
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    peer = Tokenizer.from_file(str(options.tokenizer))

    ours, starts, theirs = [], [], []
    output = b""
    for _ in range(options.repeats):
        starts.append(apus_tokenize(options, b"")[0])
        seconds, output = apus_tokenize(options, data)
        ours.append(seconds)
        theirs.append(
            min(
                seconds_of(lambda: [peer.encode(line, add_special_tokens=False) for line in lines]),
                seconds_of(lambda: peer.encode_batch_fast(lines, add_special_tokens=False)),
            )
        )

    found = [json.loads(line) for line in output.splitlines()]
    expected = [peer.encode(line, add_special_tokens=False).ids for line in lines]
    differing = sum(a != b for a, b in zip(found, expected, strict=False)) + abs(len(found) - len(expected))

    megabytes = len(data) / 1e6
    apus_rate = megabytes / (statistics.median(ours) - statistics.median(starts))
    peer_rate = megabytes / statistics.median(theirs)
    tokens = sum(map(len, expected))
    print(f"{options.text.name}: {megabytes:.1f} MB, {len(lines)} lines, {tokens} tokens, {differing} lines differ")
    print(f"apus {apus_rate:.1f} MB/s, tokenizers {peer_rate:.1f} MB/s, ratio {apus_rate / peer_rate:.2f}")
    if options.json:
        result = {"megabytes": megabytes, "tokens": tokens, "differing": differing, "apus": apus_rate, "peer": peer_rate}
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
