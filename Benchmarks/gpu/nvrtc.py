"""Compiles Apus's kernels with NVRTC, from Python; needs no GPU. Used by the GPU checks and benchmarks."""

import ctypes
import glob
import hashlib
import os
import sys
from pathlib import Path

SOURCES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../Sources")
KERNELS = os.path.join(SOURCES, "ApusAttention/Kernels")
TENSOR_KERNELS = os.path.join(SOURCES, "ApusTensor/Kernels")


def _load():
    folders = [os.path.join(os.environ["CUDA_HOME"], "lib")] if "CUDA_HOME" in os.environ else []
    for path in sys.path:
        folders += glob.glob(os.path.join(path, "nvidia/cu13/lib")) + glob.glob(os.path.join(path, "nvidia/cuda_nvrtc/lib"))
    folders += ["/usr/local/cuda/lib64", "/usr/lib/x86_64-linux-gnu"]
    for folder in folders:
        builtins = sorted(glob.glob(os.path.join(folder, "libnvrtc-builtins.so.1[3-9]*")))
        library = sorted(glob.glob(os.path.join(folder, "libnvrtc.so.1[3-9]*")))
        if builtins and library:
            ctypes.CDLL(builtins[0], mode=ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(library[0])
    raise FileNotFoundError("no NVRTC 13 in " + ", ".join(folders))


_nvrtc = None


def compile_kernel(name, defines, cache=None, report=None, folder=KERNELS):
    """cubin (bytes) of <folder>/<name> (Sources/ApusAttention/Kernels) for sm_90a with the given -D values.

    With a list as `report`, what the assembler says of registers and spills is appended to it.
    """
    global _nvrtc
    source = Path(folder, name).read_text()
    headers = sorted(h for f in {folder, TENSOR_KERNELS} for h in glob.glob(os.path.join(f, "*.cuh")))
    options = ["--gpu-architecture=sm_90a", "--std=c++17", "-default-device"]
    options += [f"-D{key}={value}" for key, value in sorted(defines.items())]
    if report is not None:
        options.append("--ptxas-options=-v")
    text = source + "".join(Path(h).read_text() for h in headers) + " ".join(options)
    key = hashlib.sha256(text.encode()).hexdigest()[:24]
    if cache and report is None:
        path = os.path.join(cache, key + ".cubin")
        if os.path.exists(path):
            return Path(path).read_bytes()
    if _nvrtc is None:
        _nvrtc = _load()
    program = ctypes.c_void_p()
    names = (ctypes.c_char_p * len(headers))(*[os.path.basename(h).encode() for h in headers])
    bodies = (ctypes.c_char_p * len(headers))(*[Path(h).read_bytes() for h in headers])
    check = lambda code, what: None if code == 0 else sys.exit(f"{what}: NVRTC error {code}")
    check(_nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), name.encode(), len(headers), bodies, names), name)
    arguments = (ctypes.c_char_p * len(options))(*[o.encode() for o in options])
    code = _nvrtc.nvrtcCompileProgram(program, len(options), arguments)
    size = ctypes.c_size_t()
    _nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    _nvrtc.nvrtcGetProgramLog(program, text)
    message = text.value.decode().strip()
    if report is not None:
        report.append(message)
    elif message:
        print(message)
    check(code, name)
    check(_nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)), name)
    cubin = ctypes.create_string_buffer(size.value)
    check(_nvrtc.nvrtcGetCUBIN(program, cubin), name)
    _nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    if cache and report is None:
        os.makedirs(cache, exist_ok=True)
        temporary = f"{path}.{os.getpid()}"
        open(temporary, "wb").write(cubin.raw)
        os.replace(temporary, path)
    return cubin.raw
