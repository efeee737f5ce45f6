"""What apus does on a GPU when something goes wrong: no GPU, no memory, a kernel cache that is spoilt or cannot be written, a
process that is killed. Needs a Hopper GPU that nothing else uses, and PyTorch, which takes the GPU's memory away.

usage: faults_check.py APUS MODEL

MODEL is one that `apus serve --device cuda` serves. Prints what was expected and what was found; exit code 1 where they differ.
"""

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from server import Server

ROOT = Path(__file__).resolve().parents[2]
HOG = """
import sys, torch
leave = int(sys.argv[1])
kept = []
while (more := torch.cuda.mem_get_info()[0] - leave) > 2 << 20:
    try:
        kept.append(torch.empty(min(more // 2 + (1 << 20), 8 << 30), dtype=torch.uint8, device="cuda"))
    except torch.cuda.OutOfMemoryError:
        break
print(torch.cuda.mem_get_info()[0], flush=True)
sys.stdin.read()
"""
RECIPE = [
    "model.hidden_size=192", "model.layers=4", "model.heads=4", "data.sequence_length=128", "data.batch_size=16",
    "data.train_vocabulary=1024", "training.evaluate_every=0", "training.checkpoint_every=20", "training.device=cuda"]  # fmt: skip
failures = []


def expect(what, holds, found=""):
    print(f"{'ok    ' if holds else 'FAILED'} {what}" + (f": {found}" if found else ""), flush=True)
    if not holds:
        failures.append(what)


class Hog:
    """Takes the GPU's memory but for so many bytes, until the end of the `with` block."""

    def __init__(self, leave):
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOG, str(leave)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.free = int(self.process.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.communicate()


def run(*command, **environment):
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=120, env={**os.environ, **environment})


def last(result):
    """The last line that a program wrote on standard error."""
    return result.stderr.strip().splitlines()[-1] if result.stderr.strip() else "(silent)"


def digest(folder):
    """Of all files of a checkpoint but the recipe, which names the run's folder."""
    result = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "recipe.yaml":
            result.update(path.name.encode())
            result.update(path.read_bytes())
    return result.hexdigest()


def check_missing_gpu(apus, model):
    found = run(apus, "generate", model, "--device", "cuda", "--tokens", "1,2,3", "-n", "1", CUDA_VISIBLE_DEVICES="")
    expect("without a GPU a message says so", found.returncode != 0 and "GPU" in last(found), last(found))


def check_kernel_cache(apus, model, folder):
    def generate(**environment):
        return run(
            apus, "generate", model, "--device", "cuda", "--tokens", "1,2,3", "-n", "4", "--temperature", "0", **environment)

    cache = folder / "cache"
    whole = generate(APUS_CACHE=str(cache))
    files = [path for path in cache.rglob("*") if path.is_file()]
    expect("compiled kernels are kept", whole.returncode == 0 and bool(files), f"{len(files)} files")
    for index, path in enumerate(files):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if index % 2 else b"\0" * path.stat().st_size)
    again = generate(APUS_CACHE=str(cache))
    expect("halved and zeroed files are compiled anew", again.returncode == 0 and again.stdout == whole.stdout, last(again))
    (folder / "file").write_text("no folder")
    without = generate(APUS_CACHE=str(folder / "file"))
    expect(
        "a cache that cannot be written is warned of and done without",
        without.returncode == 0 and without.stdout == whole.stdout and "not kept" in without.stderr, last(without))


def check_training(apus, folder):
    def command(name, *more):
        return [apus, "train", ROOT / "Examples" / "recipes" / "gla.yaml", *RECIPE, "training.steps=60",
                f"training.output={folder / name}", *more]  # fmt: skip

    def end(name):
        return digest(folder / name / "checkpoints" / "step-00000060")

    os.chdir(ROOT)
    for name in ("unbroken", "repeated"):
        found = run(*command(name))
        expect(f"a run of 60 steps ({name})", found.returncode == 0, last(found))
    expect("the same recipe gives the same checkpoint, bit for bit", end("unbroken") == end("repeated"))

    process = subprocess.Popen(command("killed"), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not (folder / "killed" / "checkpoints" / "step-00000020").exists() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = sorted(path.name for path in (folder / "killed" / "checkpoints").glob("step-*"))
    with Hog(64 << 20) as hog:
        found = run(*command("killed", "--resume"))
        expect(
            f"resumed with {hog.free >> 20} MiB free, a message says so and names the checkpoint",
            found.returncode != 0 and "memory" in last(found).lower(), last(found))
    found = run(*command("killed", "--resume"))
    expect(f"killed after {reached[-1]}, the run resumes", found.returncode == 0, last(found))
    expect("and ends in the unbroken one's checkpoint, bit for bit", end("killed") == end("unbroken"))
    found = run(*command("large", "data.batch_size=65536", "data.sequence_length=1024"))
    expect(
        "a batch that does not fit ends in sizes and advice",
        found.returncode != 0 and "out of GPU memory" in found.stderr and "data.batch_size" in found.stderr, last(found))


def check_server(apus, model):
    command = [apus, "serve", model, "--name", "model", "--device", "cuda", "--context", "2048"]
    with Hog(64 << 20):
        found = run(*command, "--host", "127.0.0.1", "--port", "0")
        expect("a server without memory ends with sizes", found.returncode != 0 and "memory" in found.stderr, last(found))

    def ask(server, tokens):
        body = dict(model="model", prompt=[1 + index % 300 for index in range(tokens)], max_tokens=8, temperature=0, ignore_eos=True)
        try:
            return server.post("v1/completions", **body)["choices"][0]["text"]
        except urllib.error.HTTPError as error:
            return error.read().decode()

    with Server(command) as server:
        before = ask(server, 100)
        with Hog(0):
            short, long = ask(server, 100), ask(server, 1900)
            expect("with the GPU's memory gone a request is answered or refused with sizes",
                   all("memory" in text or "error" not in text for text in (short, long)), long[:200])  # fmt: skip
        expect("afterwards the server answers as before", ask(server, 100) == before and "error" not in before)


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("apus", type=Path)
    parser.add_argument("model", type=Path)
    options = parser.parse_args(arguments)
    apus, model = options.apus.resolve(), options.model.resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        check_missing_gpu(apus, model)
        check_kernel_cache(apus, model, folder)
        check_training(apus, folder)
        check_server(apus, model)
    print(f"{len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
