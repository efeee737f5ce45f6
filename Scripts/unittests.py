#!/usr/bin/env python3
"""Runs a folder's Python tests, each module in a process of its own and as many at once as there are processors.

    python3 Scripts/unittests.py Tests/Emulation

What a module prints comes when it is through.
"""

import concurrent.futures
import os
import subprocess
import sys
import time
from pathlib import Path


def run(module):
    begin = time.monotonic()
    # Its folder is another one.
    paths = os.pathsep.join(os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path)
    done = subprocess.run(
        [sys.executable, "-m", "unittest", "-v", module.stem], cwd=module.parent, env={**os.environ, "PYTHONPATH": paths},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout, time.monotonic() - begin


def main(folder):
    # Long modules first.
    modules = sorted(Path(folder).resolve().glob("test_*.py"), key=lambda path: -path.stat().st_size)
    if not modules:
        sys.exit(f"{folder}: expected tests, found none")
    failed = []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        pending = {pool.submit(run, module): module for module in modules}
        for future in concurrent.futures.as_completed(pending):
            code, output, seconds = future.result()
            name = pending[future].name
            print(f"{output.rstrip()}\n{name}: {'FAILED' if code else 'ok'}, {seconds:.1f} s\n", flush=True)
            if code:
                failed.append(name)
    if failed:
        sys.exit(f"FAILED: {', '.join(sorted(failed))}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
