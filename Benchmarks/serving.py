#!/usr/bin/env python3
"""Measure apus serve as its users feel it: against llama-server, and against itself without what makes it fast.

    Benchmarks/serving.py --peer DIR smollm2.gguf     # DIR holds llama-server, built for this machine
    Benchmarks/serving.py smollm2.gguf                # apus alone
    Benchmarks/serving.py smollm2.gguf --only queue --only cpu

One client, apus bench serve, measures all. Two servers under comparison run at the same time, and
requests go to one and then to the other, turn by turn, so that a machine that gets slower or faster
meets both; each figure is the median of the turns, each ratio the median of the turns' ratios. The
lengths are 128 tokens in and 128 out unless a line says otherwise.
"""

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from server import Server, ServerError

DEFAULT_APUS = Path(__file__).resolve().parents[1] / ".build" / "release" / "apus"

# Texts to be copied with small changes, for prompt lookup.
PARAGRAPHS = [
    "The harbour master wrote in his book that the brig Helena had come in at dawn with forty barrels of oil, nine passengers "
    "and a broken foremast. Her captain, a quiet man from Bergen, asked for two weeks at the northern quay and for a carpenter "
    "who knew his trade.",
    "To prepare the ground, remove all stones and roots to a depth of thirty centimetres, spread two buckets of compost on "
    "every square metre, and turn the soil twice. Water it well in the evening. Wait three days before you set the young "
    "plants, and keep a distance of forty centimetres between them.",
    "The old lighthouse stood at the end of a narrow path between the dunes and the sea. Every evening the keeper climbed one "
    "hundred and twelve steps, cleaned the glass with a soft cloth, and lit the lamp. On clear nights its light could be seen "
    "from the mountains on the other side of the bay.",
    "Bring the milk to a gentle boil and take it from the fire. Stir in the sugar, the flour and a pinch of salt, and let the "
    "mixture rest for ten minutes. Beat the eggs until they are white and stiff, fold them in with a wooden spoon, and pour "
    "everything into a buttered dish.",
]


class BenchmarkError(Exception):
    pass


def run_json(command):
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode != 0:
        raise BenchmarkError(f"{' '.join(map(str, command[:4]))} failed: {(done.stderr or done.stdout).decode()[-600:]}")
    return json.loads(done.stdout)


class Bench:
    def __init__(self, options):
        self.options = options
        self.turn = 0

    def apus(self, *flags):
        return Server([
            self.options.apus, "serve", self.options.model, "--threads", self.options.threads,
            *self.options.serve_flags.split(), *flags,
        ])  # fmt: skip

    def peer(self, slots, context):
        return Server([
            self.options.peer / "llama-server", "-m", self.options.model, "-t", self.options.threads,
            "-tb", self.options.threads, "-np", slots, "-c", slots * context, "--no-webui", "-cram", 0,
        ], "llama-server")  # fmt: skip

    def client(self, server, *flags, file=None):
        """One turn of the client; every turn asks something else."""
        self.turn += 1
        result = run_json([
            self.options.apus, "bench", "serve", server.address, "--json", "--seed", self.turn,
            "--tokenizer", self.options.model, *flags, *(["--workload", "file", "--file", file] if file else []),
        ])  # fmt: skip
        if result["failed"]:
            raise BenchmarkError(f"{server.name}: {result['failures']}")
        return result

    def turns(self, sides, measure):
        """Each side's results, sides taking turns; who goes first alternates."""
        results = {name: [] for name in sides}
        for turn in range(self.options.repeats):
            order = list(sides.items())
            for name, server in order if turn % 2 == 0 else reversed(order):
                results[name].append(measure(server))
        return results


def compared(results, key, first, second):
    """Medians of both and the median ratio of first to second."""
    ours, theirs = ([turn[key] for turn in results[name]] for name in (first, second))
    return {
        first: statistics.median(ours),
        second: statistics.median(theirs),
        "ratio": statistics.median(a / b for a, b in zip(ours, theirs, strict=True)),
        "turns": {first: ours, second: theirs},
    }


def row(setting, figure, bar, holds, values):
    return {"setting": setting, "figure": figure, "bar": bar, "ok": holds(values["ratio"]), **values}


def single(bench):
    with bench.apus() as ours, bench.peer(1, 512) as theirs:
        results = bench.turns(
            {"apus": ours, "peer": theirs}, lambda server: bench.client(server, "--requests", 8, "--concurrency", 1))
    return [
        row("concurrency 1", "output tokens/s", ">= 2", lambda r: r >= 2, compared(results, "output_throughput", "apus", "peer")),
        row("concurrency 1", "median TTFT, ms", "<= 0.4", lambda r: r <= 0.4, compared(results, "median_ttft_ms", "apus", "peer")),
    ]  # fmt: skip


def many(bench):
    with bench.apus() as ours, bench.peer(16, 512) as theirs:
        results = bench.turns(
            {"apus": ours, "peer": theirs}, lambda server: bench.client(server, "--requests", 32, "--concurrency", 16))
    return [
        row("concurrency 16", "output tokens/s", ">= 3.5", lambda r: r >= 3.5, compared(results, "output_throughput", "apus", "peer")),
        row("concurrency 16", "p99 ITL, ms", "<= 0.5", lambda r: r <= 0.5, compared(results, "p99_itl_ms", "apus", "peer")),
    ]  # fmt: skip


def prefix(bench):
    with bench.apus() as cached, bench.apus("--no-prefix-cache") as plain:
        results = bench.turns({"cached": cached, "plain": plain}, lambda server: bench.client(
            server, "--workload", "shared-prefix", "--prefix", 1024, "--requests", 48, "--concurrency", 8))  # fmt: skip
    values = compared(results, "median_ttft_ms", "cached", "plain")
    return [row("prefix of 1,024 shared, concurrency 8", "median TTFT, ms", "<= 0.2", lambda r: r <= 0.2, values)]


def lookup(bench):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        for text in PARAGRAPHS:
            task = f"Correct the spelling of this text where it is wrong, and repeat it otherwise word by word:\n\n{text}"
            file.write(json.dumps({"messages": [{"role": "user", "content": task}], "max_tokens": 128}) + "\n")
        file.flush()
        with bench.apus(*bench.options.lookup_flags.split()) as fast, bench.apus() as plain:
            results = bench.turns(
                {"lookup": fast, "plain": plain},
                lambda server: bench.client(server, "--concurrency", 1, "--stop-at-end", file=file.name))
    values = compared(results, "output_throughput", "lookup", "plain")
    values["acceptance"] = statistics.median(turn.get("spec_decode_acceptance_rate", 0) for turn in results["lookup"])
    return [row("prompt lookup, texts copied", "output tokens/s", ">= 1.6", lambda r: r >= 1.6, values)]


def cpu(bench):
    """Processor time a token: the server's process against the engine without one."""
    options = bench.options

    def served(server):
        # The prompts of the client's warm-up are the server's work too, so there is none.
        before = server.processor_seconds()
        result = bench.client(server, "--requests", 48, "--concurrency", 16, "--warmup", 0)
        return {"cpu": (server.processor_seconds() - before) / result["total_output_tokens"] * 1e6}

    def bare(_):
        result = run_json([
            options.apus, "bench", "engine", options.model, "--threads", options.threads, "--concurrency", 16, "--repeats", 3,
            "--json",
        ])  # fmt: skip
        return {"cpu": statistics.median(result["cpuMicrosecondsPerToken"])}

    with bench.apus("--no-prefix-cache") as server:
        bench.client(server, "--requests", 16, "--concurrency", 16)
        results = {"server": [], "engine": []}
        # One turn's figure follows what else the machine does; the median of many does not.
        for turn in range(3 * options.repeats):
            for name in ("server", "engine") if turn % 2 == 0 else ("engine", "server"):
                results[name].append((served if name == "server" else bare)(server))
    values = compared(results, "cpu", "server", "engine")
    return [row("concurrency 16", "processor us/token", "<= 1.03", lambda r: r <= 1.03, values)]


def queue(bench):
    """Memory of 256 open streams whose requests wait, and what they do to those that run."""
    count, running = 256, 16

    def ask(server, model, tokens):
        body = json.dumps({"model": model, "prompt": [1000 + i for i in range(128)], "max_tokens": tokens, "stream": True,
                           "ignore_eos": True, "temperature": 0}).encode()  # fmt: skip
        connection = socket.create_connection(("127.0.0.1", server.port))
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                           + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)  # fmt: skip
        return connection

    def drained(connections, seconds):
        """Reads what comes, so that nobody waits for us; tokens a second meanwhile."""
        start, tokens = time.monotonic(), server.counter("generation_tokens_total")
        while time.monotonic() < start + seconds:
            for connection in connections:
                connection.setblocking(False)
                try:
                    while connection.recv(1 << 16):
                        pass
                except BlockingIOError:
                    pass
            time.sleep(0.05)
        return (server.counter("generation_tokens_total") - tokens) / (time.monotonic() - start)

    with bench.apus("--max-sequences", running) as server:
        model = server.model()
        first = [ask(server, model, 1900) for _ in range(running)]
        drained(first, 1)
        # Sequences get slower as they get longer, so each turn stands between two without the queue.
        alone, queued, memory, ratios = [drained(first, 2)], [], [], []
        for _ in range(bench.options.repeats):
            before = server.resident_bytes()
            waiting = [ask(server, model, 16) for _ in range(count)]
            time.sleep(0.5)
            rate = drained(first, 2)
            memory.append(server.resident_bytes() - before)
            queued.append(server.counter("num_requests_waiting"))
            for connection in waiting:
                connection.close()
            time.sleep(0.5)
            alone.append(drained(first, 2))
            if min(rate, *alone) == 0:
                raise BenchmarkError("the streams that run have ended: expected fewer --repeats")
            ratios.append(rate / (alone[-1] + alone[-2]) * 2)
        for connection in first:
            connection.close()
    if min(queued) < count:
        raise BenchmarkError(f"expected {count} requests to wait, found {min(queued):.0f}")
    memory, ratio = max(memory), statistics.median(ratios)
    return [
        {"setting": "256 streams wait", "figure": "more memory, MB", "bar": "<= 60", "ok": memory <= 60e6, "apus": memory / 1e6},
        {"setting": "256 streams wait", "figure": "tokens/s of the 16 others", "bar": ">= 0.97", "ok": ratio >= 0.97,
         "apus": ratio * statistics.median(alone), "alone": statistics.median(alone), "ratio": ratio,
         "turns": {"ratio": ratios}},
    ]  # fmt: skip


SETTINGS = {"single": single, "many": many, "prefix": prefix, "lookup": lookup, "cpu": cpu, "queue": queue}


def print_row(entry):
    other = next((name for name in entry if name in ("peer", "plain", "engine", "alone")), None)
    ours = next(name for name in entry if name in ("apus", "cached", "lookup", "server"))
    text = f"{entry['setting']:38} {entry['figure']:26} {ours} {entry[ours]:9.2f}"
    if other:
        text += f"  {other} {entry[other]:9.2f}  ratio {entry['ratio']:6.3f}"
    print(f"{text}  bar {entry['bar']}: {'holds' if entry['ok'] else 'MISSED'}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a GGUF file that both servers read")
    parser.add_argument("--apus", type=Path, default=DEFAULT_APUS, help="the apus command (default: the release build)")
    parser.add_argument("--peer", type=Path, help="the folder of llama-server")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="turns of each side")
    parser.add_argument("--only", action="append", choices=sorted(SETTINGS), help="only this setting; may be given several times")
    parser.add_argument("--serve-flags", default="", help="further flags of apus serve in every setting")
    parser.add_argument("--lookup-flags", default="--speculation lookup", help="flags of apus serve that turn prompt lookup on")
    parser.add_argument("--json", type=Path, help="write the results, every turn included, to this file")
    options = parser.parse_args()

    results = []
    bench = Bench(options)
    failed = False
    for name, setting in SETTINGS.items():
        if options.only and name not in options.only or name in ("single", "many") and not options.peer:
            continue
        try:
            rows = setting(bench)
        except (BenchmarkError, ServerError, OSError, KeyError, json.JSONDecodeError) as failure:
            print(f"error: {name}: {type(failure).__name__}: {failure}", file=sys.stderr, flush=True)
            failed = True
            continue
        for entry in rows:
            print_row(entry)
        results += rows
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
