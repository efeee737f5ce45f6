"""Compares what `apus serve --device cuda` answers with the same server on the CPU, over HTTP.

usage: server_check.py APUS MODEL [--context N]

Needs nothing but Python and a Hopper GPU. Prompts of random tokens run beside each other, twice (the second time they are found in
the prefix cache): log-probabilities of the prompts' tokens, greedy tokens, and the first of them. Then greedy tokens chosen on the
GPU against those drawn on the host, and seeded draws against their repetition; and embeddings. Exit code 1 where the last three
differ. At the end what `apus generate` continues a prompt with, on both.
"""

import argparse
import json
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from server import Server

LENGTHS = (1, 2, 3, 17, 63, 64, 65, 128, 200, 700, 1500)
GENERATED = 16


class CheckedServer(Server):
    def __init__(self, apus, model, *arguments):
        super().__init__([apus, "serve", model, "--name", "model", *arguments])
        print(f"{' '.join(map(str, arguments)) or 'CPU'}: ready after {self.seconds_to_start:.1f} s", flush=True)

    def ask(self, **body):
        return self.post("v1/completions", model="model", ignore_eos=True, **body)["choices"]

    def embedding(self, prompt):
        return self.post("v1/embeddings", model="model", input=prompt)["data"][0]["embedding"]

    def logprobs(self, prompt):
        return self.ask(prompt=prompt, max_tokens=GENERATED, temperature=0, logprobs=1, echo=True)[0]["logprobs"]


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("apus")
    parser.add_argument("model", help="a model that GPUDecoder serves")
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=49000, help="random tokens are below it")
    options = parser.parse_args(arguments)
    context = "--context", options.context
    gpu = CheckedServer(options.apus, options.model, "--device", "cuda", *context)
    cpu = CheckedServer(options.apus, options.model, *context)
    generator = random.Random(5)
    lengths = [n for n in LENGTHS if n + GENERATED < options.context]
    prompts = [[generator.randrange(1, options.vocabulary) for _ in range(n)] for n in lengths]
    with ThreadPoolExecutor(len(prompts)) as pool:
        for cache in ("cold", "warm"):
            for n, a, b in zip(lengths, pool.map(gpu.logprobs, prompts), pool.map(cpu.logprobs, prompts)):
                given = [abs(x - y) for x, y in zip(a["token_logprobs"][1:n], b["token_logprobs"][1:n])]
                same = sum(x == y for x, y in zip(a["tokens"][n:], b["tokens"][n:]))
                first = abs(a["token_logprobs"][n] - b["token_logprobs"][n])
                print(
                    f"{cache} cache, {n:5} tokens: prompt's log-probabilities within {max(given, default=0):.3f}, "
                    f"{same} of {GENERATED} greedy tokens equal, the first's log-probability within {first:.3f}", flush=True)
        pairs = list(zip(pool.map(gpu.embedding, prompts), pool.map(cpu.embedding, prompts)))
    cosine = min(sum(x * y for x, y in zip(a, b)) for a, b in pairs)
    print(f"embeddings: the smallest cosine between GPU and CPU is {cosine:.5f}")
    question = dict(prompt=prompts[-1][:65], max_tokens=40, temperature=0)
    chosen, drawn = gpu.ask(**question)[0]["text"], gpu.ask(**question, logprobs=1)[0]["text"]
    draws = [[c["text"] for c in gpu.ask(prompt=prompts[-1][:65], max_tokens=40, temperature=1, seed=1, n=3)] for _ in range(2)]
    print("the GPU's choice is the host's:", chosen == drawn)
    print("seeded draws repeat:", draws[0] == draws[1])
    gpu.stop()
    cpu.stop()

    def generated(*device):
        command = [options.apus, "generate", options.model, "--tokens", ",".join(map(str, prompts[-1][:65])), "-n", "24",
                   "--temperature", "0", "--ignore-eos", *device]  # fmt: skip
        return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)

    same = sum(a == b for a, b in zip(generated("--device", "cuda"), generated()))
    print(f"apus generate: {same} of 24 greedy tokens equal")
    return 0 if chosen == drawn and draws[0] == draws[1] and cosine > 0.99 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
