#!/usr/bin/env python3
"""Measure training steps of apus against PyTorch with Hugging Face's Llama, in the same run.

    Benchmarks/training.py                       # the two shapes of docs/performance.md, bf16
    Benchmarks/training.py --shape small --attention gla --compute float32

A step is forward, backward, clipping and AdamW, on random tokens. PyTorch runs eager with sdpa
attention and, for bf16, autocast, as its users do on CPUs. The two programs take turns; each
figure is the median of the turns, and the ratio the median of the turns' ratios. Needs torch and
transformers for the peer; --no-peer measures apus alone. Latent and tied variants have no peer of
their own: they are measured against apus' own GQA, at the same number of parameters.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

DEFAULT_APUS = Path(__file__).resolve().parents[1] / ".build" / "release" / "apus"
SHAPES = {
    "small": dict(hidden=256, layers=6, heads=4, kv_heads=2, inner=704, vocabulary=4096, batch=16, length=256),
    "medium": dict(hidden=512, layers=8, heads=8, kv_heads=4, inner=1408, vocabulary=8192, batch=8, length=512),
}
PEER = """
import json, resource, sys, time, torch
from transformers import LlamaConfig, LlamaForCausalLM
shape, compute, steps, threads = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(threads)
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=shape["vocabulary"], hidden_size=shape["hidden"], num_hidden_layers=shape["layers"],
    num_attention_heads=shape["heads"], num_key_value_heads=shape["kv_heads"], intermediate_size=shape["inner"],
    max_position_embeddings=shape["length"], tie_word_embeddings=True, use_cache=False, attn_implementation="sdpa"))
model.train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
samples = []
for step in range(steps + 1):
    tokens = torch.randint(0, shape["vocabulary"], (shape["batch"], shape["length"]))
    start = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=compute == "bf16"):
        loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    loss.item()
    if step:
        samples.append(tokens.numel() / (time.perf_counter() - start))
samples.sort()
print(json.dumps(dict(tokensPerSecond=samples[len(samples) // 2], parameters=model.num_parameters(),
                      peakMemory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)))
"""


def output(command):
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{command[0]} exited with {result.returncode}: {result.stderr.strip()[-600:]}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def apus(options, shape, attention):
    settings = {
        "model.hidden_size": shape["hidden"], "model.layers": shape["layers"], "model.heads": shape["heads"],
        "model.feed_forward_width": shape["inner"], "model.vocabulary": shape["vocabulary"],
        "data.batch_size": shape["batch"], "data.sequence_length": shape["length"],
        "model.attention": attention, "training.compute": options.compute,
    }  # fmt: skip
    if attention in ("gqa", "gta"):
        settings["model.kv_heads"] = shape["kv_heads"]
    command = [options.apus, "bench", "train", "--threads", options.threads, "--steps", options.steps, "--json"]
    return output(command + [f"{key}={value}" for key, value in settings.items()])


def matched_width(options, shape, attention, parameters):
    """The feed-forward width (a multiple of 16) whose model has the most parameters up to `parameters`."""
    probe = argparse.Namespace(**{**vars(options), "steps": 1})
    small = dict(shape, batch=1, length=16)
    base = apus(probe, dict(small, inner=64), attention)["parameters"]
    each = shape["layers"] * 3 * shape["hidden"]
    return dict(shape, inner=64 + max(0, (parameters - base) // each) // 16 * 16)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--apus", default=DEFAULT_APUS, type=Path)
    parser.add_argument("--python", default=sys.executable, help="a Python with torch and transformers")
    parser.add_argument("--shape", choices=SHAPES, action="append")
    parser.add_argument("--attention", action="append", help="gqa by default; others are compared with gqa")
    parser.add_argument("--compute", choices=("bf16", "float32"), default="bf16")
    parser.add_argument("--threads", default=os.cpu_count(), type=int)
    parser.add_argument("--steps", default=5, type=int, help="timed steps of a turn")
    parser.add_argument("--turns", default=3, type=int)
    parser.add_argument("--no-peer", action="store_true")
    options = parser.parse_args()

    print("| shape | attention | parameters | apus tokens/s | GFLOP/s at 6 N | against | its tokens/s | ratio | memory |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in options.shape or SHAPES:
        shape = SHAPES[name]
        for attention in options.attention or ["gqa"]:
            ours, theirs = [], []
            parameters = apus(argparse.Namespace(**{**vars(options), "steps": 1}), dict(shape, batch=1, length=16), "gqa")["parameters"]
            own = shape if attention == "gqa" else matched_width(options, shape, attention, parameters)
            for _ in range(options.turns):
                ours.append(apus(options, own, attention))
                if attention != "gqa":
                    theirs.append(apus(options, shape, "gqa"))
                elif not options.no_peer:
                    theirs.append(output([options.python, "-c", PEER, json.dumps(shape), options.compute, options.steps, options.threads]))
            speed = statistics.median(row["tokensPerSecond"] for row in ours)
            line = f"| {name}, {shape['batch']} x {shape['length']} | {attention} | {ours[0]['parameters'] / 1e6:.2f} M | {speed:.0f} | {6e-9 * ours[0]['parameters'] * speed:.0f} |"
            if theirs:
                ratio = statistics.median(a["tokensPerSecond"] / b["tokensPerSecond"] for a, b in zip(ours, theirs))
                peer = "gqa" if attention != "gqa" else "PyTorch"
                line += f" {peer} | {statistics.median(row['tokensPerSecond'] for row in theirs):.0f} | {ratio:.2f} |"
                line += f" {max(row['peakMemory'] for row in ours) >> 20} / {max(row['peakMemory'] for row in theirs) >> 20} MB |"
            else:
                line += f" | | | {max(row['peakMemory'] for row in ours) >> 20} MB |"
            print(line, flush=True)


if __name__ == "__main__":
    main()
