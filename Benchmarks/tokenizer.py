#!/usr/bin/env python3
"""Measure `apus tokenize` against Hugging Face's tokenizers on one thread, and compare the ids.

    pip install tokenizers
    Benchmarks/tokenizer.py tokenizer.json text.txt

Speed is that of encoding the whole text at once, one thread, loading and printing left out; for
tokenizers, `encode` or `encode_batch_fast` of the text's paragraphs, whichever is faster. The programs
take turns; figures are medians. Ids are compared line by line and for the whole text; the exit code is
1 when any differ.
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


def apus(options, data, *flags):
    command = [options.apus, "tokenize", options.tokenizer, *flags]
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout


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
    lines = text.removesuffix("\n").split("\n")
    paragraphs = text.split("\n\n")
    peer = Tokenizer.from_file(str(options.tokenizer))

    def encode(part):
        return peer.encode(part, add_special_tokens=False).ids

    ours, theirs = [], []
    for _ in range(options.repeats):
        # A process of its own each time, so apus starts with empty caches; tokenizers keeps its own between turns.
        ours.append(json.loads(apus(options, data, "--benchmark", "1"))["seconds"])
        theirs.append(
            min(
                seconds_of(lambda: encode(text)),
                seconds_of(lambda: peer.encode_batch_fast(paragraphs, add_special_tokens=False)),
            )
        )

    found = [json.loads(line) for line in apus(options, data).splitlines()]
    expected = [encode(line) for line in lines]
    differing = sum(a != b for a, b in zip(found, expected, strict=False)) + abs(len(found) - len(expected))
    whole = json.loads(apus(options, data, "--whole"))
    tokens = encode(text)
    same = whole == tokens

    megabytes = len(data) / 1e6
    apus_rate = megabytes / statistics.median(ours)
    peer_rate = megabytes / statistics.median(theirs)
    print(
        f"{options.text.name}: {megabytes:.1f} MB, {len(lines)} lines, {len(tokens)} tokens; {differing} lines differ, "
        f"the whole text is {'the same' if same else 'different'}"
    )
    print(f"apus {apus_rate:.1f} MB/s, tokenizers {peer_rate:.1f} MB/s, ratio {apus_rate / peer_rate:.2f}")
    if options.json:
        result = {"megabytes": megabytes, "tokens": len(tokens), "differing": differing, "same": same, "apus": apus_rate, "peer": peer_rate}
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if same and not differing else 1


if __name__ == "__main__":
    sys.exit(main())
