#!/usr/bin/env python3
"""Measure RLOO steps of apus against TRL's RLOOTrainer, in the same run.

    Benchmarks/rloo.py                     # 5.5M policy, 32 prompts x 2 outputs of 64 tokens, float32 and bf16
    Benchmarks/rloo.py --samples 4 --compute float32
    Benchmarks/rloo.py --device cuda       # the shape of SmolLM2-135M, 64 prompts x 2 outputs of 128 tokens, apus alone

A step is the rollout, the reward, the reference's log-probabilities, and the update. Both programs start from the
same weights with the same tokenizer; prompts of 24 to 40 words, outputs of nearly always --max-tokens tokens (the policy
is untrained: one in 4,096 tokens ends an output), the same reward (length:50) and KL factor. TRL
generates with Hugging Face's generate on the CPU. The two take turns; each figure is the median of a turn's steps
after the first two, the ratio that of the turns' medians. Needs trl, torch and transformers.

On a GPU policy, reference and reward model have random weights in the shape of SmolLM2-135M (random_llama.py, which needs numpy);
--rollouts cpu draws the outputs on the CPU all the same.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DEFAULT_APUS = Path(__file__).resolve().parents[1] / ".build" / "release" / "apus"
BOOKS = Path(__file__).resolve().parents[1] / "Examples" / "books" / "train.txt.zst"
PEER = """
import json, resource, sys, time, warnings
warnings.filterwarnings("ignore")
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import RLOOConfig, RLOOTrainer
spec = json.loads(sys.argv[1])
torch.set_num_threads(spec["threads"])
tokenizer = PreTrainedTokenizerFast(
    tokenizer_file=spec["model"] + "/tokenizer.json", eos_token="<|endoftext|>", pad_token="<|endoftext|>")
model = AutoModelForCausalLM.from_pretrained(spec["model"], dtype=torch.float32)
def reward(completions, **_):
    return [-abs(len(text.split()) - 50) / 50 for text in completions]
count = spec["prompts"] * spec["samples"]
config = RLOOConfig(
    output_dir=spec["output"], per_device_train_batch_size=count, num_generations=spec["samples"],
    max_completion_length=spec["max_tokens"], beta=0.05, learning_rate=1e-6, max_steps=spec["steps"],
    use_cpu=True, bf16=spec["compute"] == "bf16", gradient_checkpointing=False, report_to=[], save_strategy="no",
    logging_steps=1, disable_tqdm=True, lr_scheduler_type="constant", temperature=1.0, top_k=0, top_p=1.0)
lengths = []
class Lengths(TrainerCallback):
    def on_log(self, args, state, control, logs=None, **_):
        if logs and "completions/mean_length" in logs: lengths.append(logs["completions/mean_length"])
# The time between the ends of steps, so that generation counts wherever the trainer puts it.
class Ends(TrainerCallback):
    ends = []
    def on_step_end(self, *_, **__): self.ends.append(time.perf_counter())
ends = Ends()
trainer = RLOOTrainer(
    model=model, reward_funcs=reward, args=config, processing_class=tokenizer,
    train_dataset=Dataset.from_list([{"prompt": text} for text in spec["texts"]]), callbacks=[ends, Lengths()])
trainer.train()
times = [b - a for a, b in zip(ends.ends, ends.ends[1:])]
print(json.dumps(dict(
    times=times[1:], length=sum(lengths) / len(lengths),
    peakMemory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)))
"""


def output(command):
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{command[0]} failed:\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}")
    return result.stdout


def peak_memory(command):
    """Runs a command; its peak resident memory in bytes."""
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"{command[0]} failed:\n{errors.decode()[-4000:]}")
    return usage.ru_maxrss * 1024


def make_model(arguments, folder):
    """An untrained 5.5M policy with a tokenizer of 4,096 tokens from the books."""
    recipe = folder / "model.yaml"
    recipe.write_text(
        f"""\
model: {{attention: gqa, hidden_size: 256, layers: 6, heads: 4, kv_heads: 2, feed_forward_width: 704}}
data: {{text: [{BOOKS}], train_vocabulary: 4096, sequence_length: 256, batch_size: 1}}
training: {{steps: 1, compute: float32, output: {folder / "model"}}}
""")
    output([arguments.apus, "train", recipe])
    return folder / "model" / "checkpoints" / "step-00000001"


def apus_turn(arguments, folder, model, compute, reward="length:50"):
    recipe = folder / "rloo.yaml"
    run = folder / "run"
    recipe.write_text(
        f"""\
task: rloo
model: {{from: {model}}}
policy_gradient:
  prompts: [{folder / "prompts.jsonl"}]
  validation_fraction: 0
  reward: ["{reward}"]
  prompts_per_rollout: {arguments.prompts}
  samples: {arguments.samples}
  max_tokens: {arguments.max_tokens}
  normalization_prompts: 0
  rollout_device: {arguments.rollouts or "null"}
  micro_batch_tokens: {arguments.micro_batch_tokens}
  kl: 0.05
optimizer: {{learning_rate: 1e-6}}
schedule: {{kind: constant, warmup_steps: 0}}
training:
  steps: {arguments.steps}
  device: {arguments.device}
  compute: {compute}
  log_every: 1
  checkpoint_every: 0
  output: {run}
""")
    memory = peak_memory([arguments.apus, "train", recipe, "--restart", "--threads", arguments.threads])
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    steps = [entry for entry in entries if "rollout_seconds" in entry]
    for before, step in zip([{"tokens": 0}] + steps, steps):
        step["seconds"] = (step["tokens"] - before["tokens"]) / step["tokens_per_second"]
    if arguments.verbose:
        for step in steps:
            print(json.dumps(step))
    steps = steps[2:]
    parts = ["rollout_seconds", "reward_seconds", "preparation_seconds", "train_seconds"]
    return dict(
        times=[step["seconds"] for step in steps],
        parts={part: statistics.median(step[part] for step in steps) for part in parts},
        differences={
            name: statistics.median(step[f"log_probability_difference_{name}"] for step in steps) for name in ("mean", "p99")},
        length=statistics.mean(step["length"] for step in steps), peakMemory=memory)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--apus", type=Path, default=DEFAULT_APUS)
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has trl")
    parser.add_argument("--compute", action="append", choices=["float32", "bf16"])
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--rollouts", choices=["cpu", "cuda"], help="where outputs are drawn; by default as policy tasks do")
    parser.add_argument("--prompts", type=int, help="32, on a GPU 64")
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, help="64, on a GPU 128")
    parser.add_argument("--micro-batch-tokens", type=int, default=8192)
    parser.add_argument("--layers", type=int, help="of random Llamas, on a CPU too; on a GPU 30")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--verbose", action="store_true", help="print the log of each step")
    arguments = parser.parse_args()
    on_gpu = arguments.device != "cpu"
    arguments.prompts = arguments.prompts or (64 if on_gpu else 32)
    arguments.max_tokens = arguments.max_tokens or (128 if on_gpu else 64)
    if on_gpu or arguments.layers:
        return measure_llama(arguments)
    numbers = random.Random(1)
    words = "swift apus wing sky roof tower evening insect nest river cloud summer north south".split()
    texts = [" ".join(numbers.choices(words, k=numbers.randint(24, 40))) for _ in range(512)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
        model = make_model(arguments, folder)
        for compute in arguments.compute or ["float32", "bf16"]:
            ours, theirs = [], []
            for turn in range(arguments.turns):
                ours.append(apus_turn(arguments, folder, model, compute))
                if arguments.no_peer:
                    continue
                spec = dict(
                    model=str(model), output=str(folder / "trl"), texts=texts, prompts=arguments.prompts,
                    samples=arguments.samples, max_tokens=arguments.max_tokens, steps=arguments.steps,
                    compute=compute, threads=arguments.threads)
                theirs.append(json.loads(output([arguments.python, "-c", PEER, json.dumps(spec)]).splitlines()[-1]))
            show("apus", compute, ours)
            print("  " + ", ".join(f"{name.split('_')[0]} {value:.3f} s" for name, value in ours[-1]["parts"].items()))
            if theirs:
                show("TRL", compute, theirs)
                ratios = [
                    statistics.median(b["times"]) / statistics.median(a["times"]) for a, b in zip(ours, theirs)]
                print(f"  TRL / apus: {statistics.median(ratios):.2f} ({', '.join(f'{r:.2f}' for r in ratios)})")


def measure_llama(arguments):
    import random_llama

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = random_llama.prompts(1024)
        (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
        layers = arguments.layers or random_llama.LAYERS
        model = random_llama.write(folder / "model", seed=1, layers=layers)
        reward = random_llama.write(folder / "reward", seed=2, layers=layers, scores=True)
        for compute in arguments.compute or ["bf16"]:
            start = time.perf_counter()
            turns = [apus_turn(arguments, folder, model, compute, reward) for _ in range(arguments.turns)]
            show("apus", compute, turns)
            print("  " + ", ".join(f"{name.split('_')[0]} {value:.3f} s" for name, value in turns[-1]["parts"].items()))
            differences = ", ".join(f"{name} {value:.2e}" for name, value in turns[-1]["differences"].items())
            print(f"  log-probabilities of engine and trainer differ a token by: {differences}")
            print(f"  runs of {arguments.steps} steps with everything: {(time.perf_counter() - start) / arguments.turns:.1f} s")


def show(name, compute, turns):
    times = [statistics.median(turn["times"]) for turn in turns]
    print(
        f"{name} {compute}: {statistics.median(times):.3f} s a step ({', '.join(f'{t:.3f}' for t in times)}), "
        f"outputs of {turns[-1]['length']:.1f} tokens, peak memory {turns[-1]['peakMemory'] / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
