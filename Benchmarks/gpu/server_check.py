"""Compares what `apus serve --device cuda` answers with the same server on the CPU, over HTTP.

usage: server_check.py APUS MODEL [--context N]

Needs nothing but Python and a Hopper GPU. Prompts of random tokens run beside each other, twice (the second time they are found in
the prefix cache): log-probabilities of the prompts' tokens, greedy tokens, and the first of them. Then greedy tokens chosen on the
GPU against those drawn on the host, and seeded draws against their repetition; and embeddings. Exit code 1 where the last three
differ.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

LENGTHS = (1, 2, 3, 17, 63, 64, 65, 128, 200, 700, 1500)
GENERATED = 16


class Server:
    def __init__(self, apus, model, port, *arguments):
        self.port, self.log = port, tempfile.TemporaryFile("w+")
        start = time.monotonic()
        self.process = subprocess.Popen(
            [apus, "serve", model, "--port", str(port), "--name", "model", *map(str, arguments)], stdout=self.log, stderr=self.log)
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=1)
                break
            except (urllib.error.URLError, TimeoutError):
                if self.process.poll() is not None:
                    self.log.seek(0)
                    sys.exit(f"the server ended: {self.log.read()}")
                time.sleep(0.1)
        print(f"{' '.join(map(str, arguments)) or 'CPU'}: ready after {time.monotonic() - start:.1f} s", flush=True)

    def post(self, path, **body):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/{path}", json.dumps(dict(model="model", **body)).encode(),
            {"content-type": "application/json"})
        return json.load(urllib.request.urlopen(request, timeout=300))

    def ask(self, **body):
        return self.post("completions", ignore_eos=True, **body)["choices"]

    def embedding(self, prompt):
        return self.post("embeddings", input=prompt)["data"][0]["embedding"]

    def logprobs(self, prompt):
        return self.ask(prompt=prompt, max_tokens=GENERATED, temperature=0, logprobs=1, echo=True)[0]["logprobs"]

    def end(self):
        self.process.terminate()
        self.process.wait(60)


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("apus")
    parser.add_argument("model", help="a model that GPUDecoder serves")
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=49000, help="random tokens are below it")
    options = parser.parse_args(arguments)
    context = "--context", options.context
    gpu = Server(options.apus, options.model, 8101, "--device", "cuda", *context)
    cpu = Server(options.apus, options.model, 8102, *context)
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
    gpu.end()
    cpu.end()
    return 0 if chosen == drawn and draws[0] == draws[1] and cosine > 0.99 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
