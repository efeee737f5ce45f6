#!/usr/bin/env python3
"""What several GPUs of one machine do together: checks, decoding, serving, a rank that dies, training, beside one GPU.

    python3 Benchmarks/gpu/ranks.py --apus .build/release/apus --ranks 2
    python3 Benchmarks/gpu/ranks.py --apus apus --parts checks,steps --json figures.json

Parts: checks (apus check ranks over every number of ranks that divides the GPUs), sums (steps with the sums of ranks made by
NCCL and by our own kernel), steps (decode steps of the paper's shape after 8,192 + 2,048 tokens, and a prompt of 8,192), serve
(apus serve under apus bench serve, and what apus plan serve computes for the same), death (kill -9 of a rank under load), train.

The paper's shape here: 128 query heads of 128, width 5120, dense feed-forwards of 12288, random weights; fewer layers than 60,
so that bf16 weights fit and are made in seconds. Figures of n layers are n layers' figures.

With --share-gpu all ranks share one GPU, NCCL over sockets of this machine (it is told that each is a machine of its own): that
checks what ranks compute, and says nothing about speed.
"""

import argparse
import json
import os
import re
import shlex
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

LAYOUTS = {"mla": dict(latents=1, width=512), "gla-2": dict(latents=2, width=256), "gla-8": dict(latents=8, width=256)}
FIGURES = ("output_throughput", "median_ttft_ms", "median_itl_ms", "p99_itl_ms", "mean_tpot_ms", "median_e2el_ms", "duration")
# The paper's XL has feed-forwards of 5464: here of a width whose half is a multiple of 16 as well.
TRAINING = {
    "114M": dict(hidden_size=768, layers=12, heads=12, kv_heads=4, feed_forward_width=2048, vocabulary=50304, batch=32),
    "1.5B": dict(hidden_size=2048, layers=24, heads=16, kv_heads=16, feed_forward_width=5472, vocabulary=50304, batch=8),
}


def say(*words):
    print(*words, flush=True)


# Each rank on a machine of its own, as far as NCCL knows; what follows are a program and its arguments.
SHARING = ["sh", "-c", 'NCCL_HOSTID=rank-$RANK NCCL_SOCKET_IFNAME=lo NCCL_IB_DISABLE=1 exec "$@"', "rank"]


class Runner:
    def __init__(self, options):
        self.options = options
        self.apus = str(Path(options.apus).resolve())
        self.figures = {}

    def command(self, ranks, *words):
        launch = [self.apus, "launch", "-n", str(ranks)] if ranks > 1 else []
        if ranks > 1 and self.options.share_gpu:
            launch += SHARING
        return launch + [self.apus, *map(str, words)]

    def launcher(self):
        """What the server starts ranks by, where that is not usual."""
        if not self.options.share_gpu:
            return []
        script = Path(self.options.scratch) / "launch.sh"
        script.parent.mkdir(parents=True, exist_ok=True)
        sharing = " ".join(shlex.quote(word) for word in SHARING)
        script.write_text(f'#!/bin/sh\nshift\nn=$1\nshift\nexec {shlex.quote(self.apus)} launch -n "$n" {sharing} "$@"\n')
        script.chmod(0o755)
        return ["--launcher", script]

    def run(self, ranks, *words, environment=None, gpu=None, timeout=None):
        env = dict(os.environ, **(environment or {}))
        if gpu is not None:
            env["CUDA_VISIBLE_DEVICES"] = str(gpu)
        start = time.monotonic()
        try:
            done = subprocess.run(
                self.command(ranks, *words), capture_output=True, text=True, env=env, timeout=timeout or self.options.timeout)
            code, out, err = done.returncode, done.stdout, done.stderr
        except subprocess.TimeoutExpired as late:
            code, out, err = 124, str(late.stdout or ""), str(late.stderr or "")
        if code:
            say(f"  FAILED ({code}) {' '.join(map(str, words))}\n  {out.strip()[-1500:]}\n  {err.strip()[-1500:]}")
        return code, out, time.monotonic() - start

    # ---- parts ----

    def checks(self):
        for ranks in [n for n in range(2, self.options.ranks + 1) if self.options.ranks % n == 0]:
            for sums, parts in (("peers", ["decoding"]), ("nccl", ["collectives", "training"]), ("nccl", ["decoding"])):
                only = [word for part in parts for word in ("--only", part)]
                code, out, seconds = self.run(
                    ranks, "check", "ranks", "--device", "cuda", *only, environment={"APUS_RANK_SUMS": sums})
                name = f"check of {ranks} ranks, {' and '.join(parts)}, sums by {sums}"
                say(f"{name}: {'ok' if code == 0 else 'FAILED'}, {seconds:.1f} s\n{out}")
                self.figures[name] = code == 0

    def shape(self, name, layers):
        words = ["--shape", "deepseek-coder-v2", "--experts", 0, "--layers", layers]
        if name != "mla":
            words += ["--variant", "gla", "--latent-heads", LAYOUTS[name]["latents"], "--latent-width", LAYOUTS[name]["width"]]
        return words

    def decode(self, ranks, shape, label, *words, **options):
        code, out, seconds = self.run(ranks, "bench", "decode", "--device", "cuda", "--json", *shape, *words, **options)
        if code:
            return None
        rows = json.loads(out)
        for row in rows:
            what = f"prompt of {row['prompt']}" if row["prompt"] else f"step of {row['batch']}"
            rate, batch = row["tokensPerSecond"], row["batch"]
            time_ms = 1e3 * batch * (row["prompt"] or 1) / rate
            say(f"{label}: {what}: {time_ms:.3f} ms, {rate:,.0f} tokens/s")
            self.figures[f"{label}, {what}"] = time_ms
        say(f"  ({seconds:.1f} s)")
        return rows

    def sums(self):
        """One shape that users know: whole on one GPU, cut with both kinds of sums."""
        n = self.options.ranks
        shape, work = ["--shape", "llama-3-8b"], ["--prompt", 128, "--generate", 64, "--batch", "1,16,64,256"]
        self.decode(1, shape, "llama-3-8b, 1 GPU", *work)
        for sums in ("peers", "nccl"):
            self.decode(n, shape, f"llama-3-8b, {n} GPUs, sums by {sums}", *work, environment={"APUS_RANK_SUMS": sums})

    def steps(self):
        n, layers = self.options.ranks, self.options.layers
        batches = self.options.batches
        for name in self.options.variants.split(","):
            shape = self.shape(name, layers)
            for ranks in sorted({1, n}):
                label = f"{name}, {layers} layers, TP {ranks}"
                self.decode(ranks, shape, label, "--cached", 10240, "--generate", 32, "--batch", batches, "--repeats", 2)
                self.decode(ranks, shape, label, "--prompt", 8192, "--generate", 0, "--repeats", 2)

    def model(self, name, layers):
        """A folder with a random model that all ranks of this machine read from memory."""
        folder = Path(self.options.scratch) / f"{name}-{layers}"
        if not (folder / "config.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_model(folder, layers=layers, queries=128, head=128, hidden=5120, inner=12288, rank=1536, rope=64, **LAYOUTS[name])
        return folder

    def serve(self):
        n, layers = self.options.ranks, self.options.serve_layers
        for name, tp, dp in (("gla-8", n, 1), ("gla-2", n, 1), ("mla", n, 1), ("mla", 1, n)):
            if name not in self.options.variants.split(","):
                continue
            folder = self.model(name, layers)
            label = f"{name}, {layers} layers, TP {tp} DP {dp}"
            context = 1 << 15 if self.options.unequal else 8192 + self.options.generate
            words = ["--context", context + 64, "--max-sequences", 128, *self.launcher()]
            with Served(self.apus, folder, tp, dp, *words) as server:
                if not server.wait_until_ready(dp, self.options.timeout):
                    say(f"{label}: not ready\n{server.log()}")
                    continue
                say(f"{label}: ready after {server.seconds:.1f} s")
                for concurrency in map(int, self.options.concurrency.split(",")):
                    requests = max(self.options.requests, concurrency)
                    found = self.measure(server, label, f"{concurrency} at once", "--prompt", 8192, "--generate", self.options.generate,
                                         "--requests", requests, "--concurrency", concurrency)
                    if found:
                        self.plan(folder, label, tp, dp, found, concurrency, requests)
                if self.options.unequal:
                    lines = Path(self.options.scratch) / "unequal.jsonl"
                    lengths = [(i * 7919 + 101) % 32000 + 1 for i in range(12)]
                    lines.write_text("".join(
                        json.dumps(dict(prompt=[(i + j) % 250 for j in range(length)], max_tokens=128)) + "\n"
                        for i, length in enumerate(lengths)))
                    self.measure(
                        server, label, "1 to 32,000 tokens, 4 at once", "--workload", "file", "--file", lines, "--concurrency", 4)

    def measure(self, server, label, what, *words):
        code, out, seconds = self.run(1, "bench", "serve", server.address, "--vocabulary", 1000, "--json", *words)
        if code:
            say(server.log())
            return None
        found = json.loads(out)
        self.figures[f"serve {label}, {what}"] = found
        say(f"{label}, {what}: {serving_line(found)} ({seconds:.1f} s)")
        return found

    def plan(self, folder, label, tp, dp, found, concurrency, requests):
        code, out, _ = self.run(
            1, "plan", "serve", folder, "--device", "h200", "--tp", tp, "--dp", dp, "--weights", "bf16", "--prompt", 8192,
            "--generate", self.options.generate, "--requests", requests, "--concurrency", concurrency, "--max-sequences", 128,
            "--prompt-tokens-beside-decoding", 2048, "--json")
        if code == 0:
            planned = json.loads(out)["runs"][0]
            self.figures[f"plan {label}, {concurrency} at once"] = planned
            say("  planned: " + ", ".join(
                f"{key} {planned[key]:.4g} ({planned[key] / found[key] - 1:+.0%})" for key in FIGURES if found.get(key)))

    def death(self):
        """kill -9 of the last rank while clients wait for answers."""
        n = self.options.ranks
        folder = Path(self.options.scratch) / "small"
        if not (folder / "config.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_model(folder, layers=4, queries=16, head=64, hidden=512, inner=1024)
        with Served(self.apus, folder, n, 1, "--context", 4096, "--max-sequences", 32, *self.launcher()) as server:
            if not server.wait_until_ready(1, self.options.timeout):
                return say(f"death: not ready\n{server.log()}")
            results, start = [], time.monotonic()
            body = dict(prompt=list(range(1, 100)), max_tokens=3900, temperature=0, ignore_eos=True, stream=True)

            def ask():
                begin, events = time.monotonic(), 0
                try:
                    with server.post("/v1/completions", body) as answer:
                        for line in answer:
                            events += line.startswith(b"data")
                            if b"ranks_ended" in line:
                                results.append(("told", time.monotonic(), events))
                                return
                    results.append(("ended", time.monotonic(), events))
                except Exception as problem:
                    results.append((f"broke off: {problem}", time.monotonic(), events))

            threads = [threading.Thread(target=ask) for _ in range(16)]
            for thread in threads:
                thread.start()
            time.sleep(self.options.load_seconds)
            victim = server.rank(n - 1)
            os.kill(victim, signal.SIGKILL)
            killed = time.monotonic()
            for thread in threads:
                thread.join(60)
            told = [r for r in results if r[0] == "told"]
            say(f"death: rank {n - 1} killed after {self.options.load_seconds} s of 16 streams; {len(told)} of 16 streams were told "
                f"(\"ranks_ended\"), the last {max([r[1] for r in results] or [0]) - killed:.2f} s later; others: "
                f"{[r[0] for r in results if r[0] != 'told']}")
            ready = server.wait_until_ready(1, self.options.timeout, fresh=2)
            say(f"death: {'ready again' if ready else 'NOT ready again'} {time.monotonic() - killed:.1f} s after it; "
                f"{[line for line in server.log().splitlines() if 'the job ends' in line][:1]}")
            again = dict(body, max_tokens=8, stream=False)
            with server.post("/v1/completions", again) as answer:
                say(f"death: the next request is answered with {answer.status}")
            self.figures["death"] = dict(told=len(told), ready=ready)

    def train(self):
        n = self.options.ranks
        for name, shape in TRAINING.items():
            batch = shape["batch"]
            settings = [f"model.{key}={value}" for key, value in shape.items() if key != "batch"] + ["model.attention=gqa"]
            rates = {}
            for ranks, sequences, tp in ((1, batch, 1), (n, batch, 1), (n, n * batch, 1), (n, batch, n)):
                code, out, seconds = self.run(
                    ranks, "bench", "train", "--device", "cuda", "--steps", self.options.steps, "--json", "--tensor-parallel", tp,
                    *settings, f"data.batch_size={sequences}", "data.sequence_length=1024")
                if code:
                    continue
                found = json.loads(out)
                rate = found["tokensPerSecond"]
                rates.setdefault((ranks, sequences), rate)
                more = "".join(f", {key} {found[key]:.4f}" for key in ("stepSeconds", "computeSeconds", "communicationSeconds") if key in found)
                beside = f", {rate / rates[1, batch]:.2f} times one GPU" if ranks > 1 and (1, batch) in rates else ""
                layout = f"{ranks} GPUs" + (", cut over them" if tp > 1 else "")
                say(f"train {name}, {layout}, {sequences} x 1024: {rate:,.0f} tokens/s{beside}{more}, "
                    f"peak {found.get('peakDeviceMemory', 0) / 2**30:.1f} GiB ({seconds:.1f} s)")
                self.figures[f"train {name}, {layout}, {sequences}"] = found


def serving_line(found):
    return ", ".join(f"{key} {found[key]:.5g}" for key in FIGURES if key in found)


class Served:
    """apus serve as a front."""

    def __init__(self, apus, folder, tp, dp, *words):
        self.output = tempfile.TemporaryFile("w+")
        self.begin = time.monotonic()
        self.process = subprocess.Popen(
            [apus, "serve", str(folder), "--device", "cuda", "--port", "0", "--tensor-parallel", str(tp), "--data-parallel", str(dp),
             "--no-prefix-cache", *map(str, words)], stdout=self.output, stderr=subprocess.STDOUT)
        self.address = None
        while self.address is None and self.process.poll() is None and time.monotonic() - self.begin < 30:
            found = re.search(r"at (http://\S+)", self.log())
            self.address = found and found.group(1)
            time.sleep(0.02)

    def log(self):
        self.output.flush()
        self.output.seek(0)
        return self.output.read()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def groups(self):
        with urllib.request.urlopen(f"{self.address}/ranks", timeout=5) as answer:
            return json.load(answer)["groups"]

    def wait_until_ready(self, count, seconds, fresh=1):
        begin = time.monotonic()
        while self.address and self.process.poll() is None and time.monotonic() - begin < seconds:
            try:
                if sum(group["ready"] and group["starts"] >= fresh for group in self.groups()) == count:
                    self.seconds = time.monotonic() - self.begin
                    return True
            except OSError:
                pass
            time.sleep(0.05)
        return False

    def post(self, path, body):
        request = urllib.request.Request(
            self.address + path, json.dumps(body).encode(), {"content-type": "application/json"})
        return urllib.request.urlopen(request, timeout=120)

    def rank(self, number):
        """The process of a rank: one of those below the launcher, by its environment."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "environ").read_bytes().split(b"\0")
                    command = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if f"RANK={number}".encode() in words and b"--rank-port" in command and b"launch" not in command:
                    return int(entry.name)
        raise RuntimeError(f"no process of rank {number}")


def write_model(folder, layers, hidden, inner, head, queries, rank=None, rope=None, latents=0, width=None, vocabulary=1024):
    """A model with random weights in bf16: MLA or GLA by its latents, without them grouped attention with 8 KV heads."""
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "lm_head.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    for i in range(layers):
        own = {
            "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,), "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner), "self_attn.o_proj": (hidden, queries * head)}
        if latents:
            own |= {
                "self_attn.W_dQ": (rank, hidden), "self_attn.q_norm": (rank,), "self_attn.W_uQ_rope": (queries * (head + rope), rank),
                "self_attn.W_dKV": (latents * width + rope, hidden)}
            for latent in range(1, latents + 1):
                own |= {f"self_attn.kv_norm_{latent}": (width,), f"self_attn.W_ukv_{latent}": (queries // latents * 2 * head, width)}
        else:
            own |= {f"self_attn.{part}_proj": (n * head, hidden) for part, n in (("q", queries), ("k", 8), ("v", 8))}
        shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in own.items()}
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = dict(dtype="BF16", shape=list(shape), data_offsets=[offset, offset + size])
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            file.write(random_bf16(shape))
    config = dict(
        model_type="llama", vocab_size=vocabulary, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=queries, num_key_value_heads=8, head_dim=head, rms_norm_eps=1e-6, max_position_embeddings=1 << 18,
        rope_theta=10000.0, torch_dtype="bfloat16", tie_word_embeddings=False, bos_token_id=0, eos_token_id=1)
    if latents:
        config |= dict(
            num_key_value_heads=queries, qk_rope_dim=rope, num_latent_heads=latents, kv_latent_dim=width, q_latent_dim=rank,
            latent_bias=False)
    # Bytes as ByteLevel writes them.
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printed]
    characters = {**{b: chr(b) for b in printed}, **{b: chr(256 + i) for i, b in enumerate(others)}}
    tokenizer = dict(
        version="1.0", added_tokens=[], normalizer=None, post_processor=None,
        pre_tokenizer=dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True),
        decoder=dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True),
        model=dict(type="BPE", vocab={**{characters[b]: b for b in range(256)}, **{f"word {b}": b for b in range(256, vocabulary)}}, merges=[]))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "config.json").write_text(json.dumps(config))


def random_bf16(shape):
    """Norms 1, matrices of deviation 0.02."""
    if len(shape) == 1:
        return b"\x80\x3f" * shape[0]
    try:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        values = (torch.randn(shape, device=device) * 0.02).to(torch.bfloat16).view(torch.int16).cpu()
        return values.numpy().tobytes()
    except ImportError:
        import numpy

        bits = (numpy.random.default_rng(sum(shape)).standard_normal(shape, numpy.float32) * 0.02).view(numpy.uint32)
        return ((bits + 0x8000) >> 16).astype(numpy.uint16).tobytes()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--apus", default=".build/release/apus")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--parts", default="checks,sums,steps,train,death,serve")
    parser.add_argument("--variants", default="gla-8,gla-2,mla")
    parser.add_argument("--layers", type=int, default=12, help="of the paper's shape in steps")
    parser.add_argument("--serve-layers", type=int, default=4, help="of the paper's shape in serve")
    parser.add_argument("--batches", default="16,64,128")
    parser.add_argument("--concurrency", default="16,64,128")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--generate", type=int, default=256, help="output tokens in serve")
    parser.add_argument("--unequal", action="store_true", help="serve prompts of unequal lengths too")
    parser.add_argument("--share-gpu", action="store_true", help="all ranks on one GPU, to check without several")
    parser.add_argument("--load-seconds", type=float, default=1.5, help="of load before a rank dies")
    parser.add_argument("--steps", type=int, default=8, help="of training")
    parser.add_argument("--scratch", default="/dev/shm/apus-ranks")
    parser.add_argument("--timeout", type=float, default=120, help="seconds of a command")
    parser.add_argument("--json", help="a file for all figures")
    options = parser.parse_args()
    runner = Runner(options)
    for part in options.parts.split(","):
        begin = time.monotonic()
        try:
            getattr(runner, part)()
        except Exception as problem:
            say(f"{part} FAILED: {type(problem).__name__}: {problem}")
        say(f"== {part}: {time.monotonic() - begin:.1f} s\n")
        if options.json:
            Path(options.json).write_text(json.dumps(runner.figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
