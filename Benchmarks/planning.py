#!/usr/bin/env python3
"""Hold apus plan serve against apus serve on this machine.

    Benchmarks/planning.py smollm2.gguf
    Benchmarks/planning.py smollm2.gguf --turns 5 --json planning.json
    Benchmarks/planning.py model --device cuda        # larger settings, on the machine's GPU

In each turn apus bench steps measures the calibration, and right after it apus bench serve measures apus
serve in several settings; apus plan serve simulates the same requests from the calibration alone. The
error of a figure is |simulated / measured - 1|, of the medians over the turns; the bar is their median
over all settings and figures. --before and --after are commands run around each measurement, to quiet
the machine.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from server import Server, ServerError

DEFAULT_APUS = Path(__file__).resolve().parents[1] / ".build" / "release" / "apus"
BAR = 0.15

# Name, flags of the workload, requests, load.
SETTINGS = [
    ("1 stream, 128 + 128", ["--prompt", 128, "--generate", 128], 6, ["--concurrency", 1]),
    ("4 streams, 128 + 128", ["--prompt", 128, "--generate", 128], 16, ["--concurrency", 4]),
    ("16 streams, 128 + 128", ["--prompt", 128, "--generate", 128], 48, ["--concurrency", 16]),
    ("8 streams, 512 + 64", ["--prompt", 512, "--generate", 64], 16, ["--concurrency", 8]),
    ("8 streams, 64 + 256 within a half", ["--prompt", 64, "--generate", 256, "--spread", 0.5], 24, ["--concurrency", 8]),
    ("2 requests/s, 256 + 64", ["--prompt", 256, "--generate", 64], 24, ["--rate", 2]),
]
GPU_SETTINGS = [
    ("1 stream, 128 + 128", ["--prompt", 128, "--generate", 128], 12, ["--concurrency", 1]),
    ("16 streams, 128 + 128", ["--prompt", 128, "--generate", 128], 128, ["--concurrency", 16]),
    ("64 streams, 128 + 128", ["--prompt", 128, "--generate", 128], 384, ["--concurrency", 64]),
    ("32 streams, 512 + 256", ["--prompt", 512, "--generate", 256], 128, ["--concurrency", 32]),
    ("32 streams, 256 + 256 within a half", ["--prompt", 256, "--generate", 256, "--spread", 0.5], 128, ["--concurrency", 32]),
    ("40 requests/s, 512 + 128", ["--prompt", 512, "--generate", 128], 160, ["--rate", 40]),
]
FIGURES = [
    "output_throughput", "mean_ttft_ms", "median_ttft_ms", "mean_tpot_ms", "median_tpot_ms", "mean_itl_ms", "median_itl_ms",
    "mean_e2el_ms", "median_e2el_ms",
]  # fmt: skip


class PlanningError(Exception):
    pass


def run(command):
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode != 0:
        raise PlanningError(f"{' '.join(map(str, command[:4]))} failed: {(done.stderr or done.stdout).decode()[-600:]}")
    return done.stdout


def turn(options, number, folder):
    """One calibration, then every setting measured; what both give."""
    gpu = options.compute == "cuda"
    compute = ["--threads", options.threads, "--device", options.compute]
    sizes = ["--max-sequences", 64, "--cache-tokens", 65536 if gpu else 32768, "--step-tokens", 8192 if gpu else 512]
    calibration = folder / f"calibration{number}.json"
    steps = [*options.priority, options.apus, "bench", "steps", options.model, *compute]
    run([*steps, "--passes", options.passes, "--output", calibration])
    results = {}
    command = [*options.priority, options.apus, "serve", options.model, *compute, "--no-prefix-cache"]
    with Server([*command, *sizes, "--log-level", "error"]) as server:
        if gpu:  # What is compiled and recorded at the first use of a number of sequences is no part of a step.
            run([options.apus, "bench", "serve", server.address, "--tokenizer", options.model, "--concurrency", 64, "--requests", 128])
        for name, workload, requests, load in options.settings:
            flags = [*workload, *load, "--requests", requests, "--seed", number, "--json"]
            measured = json.loads(
                run([*options.client_priority, options.apus, "bench", "serve", server.address, "--tokenizer", options.model, *flags]))
            if measured["failed"]:
                raise PlanningError(f"{name}: {measured['failures']}")
            simulated = json.loads(
                run([options.apus, "plan", "serve", options.model, "--calibration", calibration, "--device",
                     options.figures, *sizes, *flags]))["runs"][0]  # fmt: skip
            results[name] = {figure: (measured[figure], simulated[figure]) for figure in FIGURES}
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--apus", type=Path, default=DEFAULT_APUS, help="the apus command (default: the release build)")
    parser.add_argument("--device", dest="compute", default="cpu", choices=["cpu", "cuda"], help="what computes steps")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--passes", type=int, default=7, help="passes of a calibration")
    parser.add_argument("--priority", default="", help="a command in front of those that compute, as chrt -f 1")
    parser.add_argument("--client-priority", default="", help="a command in front of the client, as chrt -f 2")
    parser.add_argument("--before", default="", help="a command before each turn")
    parser.add_argument("--after", default="", help="a command after each turn")
    parser.add_argument("--json", type=Path, help="write all figures of all turns to this file")
    options = parser.parse_args()
    options.priority, options.client_priority = options.priority.split(), options.client_priority.split()

    options.settings = GPU_SETTINGS if options.compute == "cuda" else SETTINGS

    turns = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        options.figures = folder / "device.json"
        options.figures.write_bytes(run([options.apus, "doctor", "--json"]))
        for number in range(options.turns):
            try:
                if options.before:
                    subprocess.run(options.before, shell=True, check=False)
                turns.append(turn(options, number, folder))
            except (PlanningError, ServerError, OSError, KeyError, json.JSONDecodeError) as failure:
                print(f"error: turn {number}: {type(failure).__name__}: {failure}", file=sys.stderr)
                return 1
            finally:
                if options.after:
                    subprocess.run(options.after, shell=True, check=False)
    errors = []
    print(f"{'setting':36} {'figure':18} {'measured':>10} {'simulated':>10} {'error':>7}")
    for name, *_ in options.settings:
        for figure in FIGURES:
            measured = statistics.median(each[name][figure][0] for each in turns)
            simulated = statistics.median(each[name][figure][1] for each in turns)
            error = abs(simulated / measured - 1)
            errors.append(error)
            print(f"{name:36} {figure:18} {measured:10.2f} {simulated:10.2f} {error:6.1%}")
    median = statistics.median(errors)
    print(f"median error {median:.1%}, largest {max(errors):.1%}; bar {BAR:.0%}: {'holds' if median <= BAR else 'MISSED'}")
    if options.json:
        options.json.write_text(json.dumps({"turns": turns, "medianError": median}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
