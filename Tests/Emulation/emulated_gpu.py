"""A GPU that is none, for whole programs: builds gpu.cpp and gives the environment in which Apus takes it for one.

    APUS=.build/release/apus python3 Tests/Emulation/emulated_gpu.py $APUS generate MODEL "hello" --device cuda
"""

import os
import subprocess
import sys
from pathlib import Path

import emulate

HERE = Path(__file__).resolve().parent
LIBRARIES = [
    "libcuda.so.1", "libnvrtc.so.13", "libnvrtc-builtins.so.13.0", "libcublasLt.so.13", "libnccl.so.2"]


def environment(folder):
    """The variables; what is built lies in a folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    source, library = HERE / "gpu.cpp", folder / "gpu.so"
    if not library.exists() or library.stat().st_mtime < source.stat().st_mtime:
        made = folder / f"gpu.{os.getpid()}.so"
        subprocess.run(
            [emulate.compiler(), "-std=c++17", "-O3", "-march=native", "-ffast-math", "-fno-finite-math-only", "-fPIC", "-shared",
             "-fvisibility=hidden", "-pthread", str(source), "-o", str(made)], check=True)
        os.replace(made, library)
    for name in LIBRARIES:
        link = folder / name
        if not link.is_symlink():
            link.symlink_to("gpu.so")
    kernels = folder / "kernels"
    kernels.mkdir(exist_ok=True)
    return {
        **os.environ, "APUS_CUDA_LIBRARY_PATH": str(folder), "EMULATED_GPU_HEADERS": str(emulate._headers()),
        "EMULATED_GPU_KERNELS": str(HERE), "EMULATED_GPU_CACHE": str(kernels), "APUS_CACHE": str(folder / "cache")}


if __name__ == "__main__":
    sys.exit(subprocess.run(sys.argv[1:], env=environment(HERE.parents[1] / ".build" / "emulated-gpu")).returncode)
