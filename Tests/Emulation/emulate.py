"""Compiles a CUDA kernel as C++ and runs it on the CPU: emulator.h says what this checks. Needs numpy and a C++ compiler."""

import concurrent.futures
import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# Where kernels and what they include lie.
FOLDERS = [folder for folder in (ROOT / "Sources/ApusTensor/Kernels", ROOT / "Sources/ApusAttention/Kernels") if folder.is_dir()]
BUILT = Path(os.environ.get("APUS_EMULATED", ROOT / ".build/emulation"))


class EmulationError(Exception):
    """What a launch did wrong: a deadlock, an access outside of shared memory, a barrier that was not initialised."""


class _Three(ctypes.Structure):
    _fields_ = [(axis, ctypes.c_uint) for axis in "xyz"]


class _Launch(ctypes.Structure):
    _fields_ = [
        ("grid", _Three), ("threads", _Three), ("shared", ctypes.c_size_t), ("lazy", ctypes.c_bool), ("seed", ctypes.c_uint),
        ("seconds", ctypes.c_double)]


class TensorMap(ctypes.Structure):
    _fields_ = [
        ("address", ctypes.c_ulonglong), ("rank", ctypes.c_ubyte), ("element_bytes", ctypes.c_ubyte), ("swizzle", ctypes.c_ubyte),
        ("unused", ctypes.c_ubyte * 5), ("shape", ctypes.c_ulonglong * 5), ("strides", ctypes.c_ulonglong * 4),
        ("box", ctypes.c_uint * 5)]


def tensor_map(pointer, shape, strides, box, bits=16, swizzle=None):
    """As `tensor_map` of Benchmarks/gpu/driver.py; what the driver would refuse is an error here too."""
    swizzle = swizzle if swizzle is not None else 3 if bits == 16 else 2
    result = TensorMap(pointer, len(shape), bits // 8, swizzle)
    if pointer % 16 or any(s % 16 for s in strides) or any(not 0 < b <= 256 for b in box) or not 1 <= len(shape) <= 5:
        raise ValueError(f"tensor map {pointer:#x} {shape} {strides} {box}")
    if swizzle and box[0] * bits // 8 > 16 << swizzle:
        raise ValueError(f"a box of {box[0]} elements is wider than its swizzle")
    result.shape[: len(shape)], result.strides[: len(strides)], result.box[: len(box)] = shape, strides, box
    return result


def compiler():
    """The C++ compiler: CXX, g++ or clang++; None where there is none."""
    names = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++"]
    return next(filter(None, map(shutil.which, names)), None)


FLAGS = ["-std=c++17", "-O1", "-fPIC", "-pthread", "-fvisibility=hidden", "-w", "-fno-strict-aliasing", "-ffp-contract=off"]


def _key(*texts):
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:24]


def _run(command, what):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{what}:\n{done.stderr[:4000]}")


def _publish(made, path):
    """Puts what was made in a temporary place where others look for it."""
    temporary = f"{path}.{os.getpid()}"
    shutil.copy(made, temporary)
    os.replace(temporary, path)


def _headers():
    """A folder with the emulator's headers, precompiled where the compiler is g++."""
    headers = [HERE / "emulator.h", HERE / "builtins.h"]
    folder = BUILT / _key(compiler(), *FLAGS, *[h.read_text() for h in headers])
    folder.mkdir(parents=True, exist_ok=True)
    for header in headers:
        if not (folder / header.name).exists():
            _publish(header, folder / header.name)
    precompiled = folder / "emulator.h.gch"
    if "g++" in Path(compiler()).name and "clang" not in compiler() and not precompiled.exists():
        with tempfile.TemporaryDirectory() as temporary:
            made = f"{temporary}/emulator.h.gch"
            _run([compiler(), *FLAGS, "-x", "c++-header", str(folder / "emulator.h"), "-o", made], "emulator.h")
            _publish(made, precompiled)
    return folder


def _build(file, entries, defines, folders):
    if compiler() is None:
        raise RuntimeError("the emulator needs a C++ compiler: CXX, g++ or clang++")
    found = next(folder for folder in folders if (folder / file).exists())
    sources = {p.name: p for folder in reversed(folders) for p in sorted(folder.glob("*.cuh"))}
    sources.update({p.name: p for p in (HERE / "ptx.cuh", found / file)})
    macros = "".join(f"#define {key} {value}\n" for key, value in sorted(defines.items()))
    main = f'#include "emulator.h"\n{macros}#include "{file}"\n' + "".join(f"EMULATE({e})\n" for e in entries)
    headers = _headers()
    library = BUILT / (_key(headers.name, main, *[p.name + p.read_text() for p in sources.values()]) + ".so")
    if not library.exists():
        # In one folder, so that kernels that include "ptx.cuh" get the emulator's.
        with tempfile.TemporaryDirectory() as folder:
            for name, path in sources.items():
                shutil.copy(path, Path(folder, name))
            Path(folder, "emulated.cpp").write_text(main)
            made = f"{folder}/built.so"
            _run([compiler(), *FLAGS, "-shared", f"-I{headers}", f"{folder}/emulated.cpp", "-o", made], f"{file} {defines}")
            _publish(made, library)
    return ctypes.CDLL(str(library))


def prepare(kernels):
    """Compiles kernels [(file, name, definitions)] side by side, as many as there are processors."""
    _headers()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda k: _build(k[0], [k[1]], k[2], FOLDERS), kernels))


class Kernel:
    """One kernel of a file; `shared` is its dynamic shared memory in bytes. Launched as Kernel of Benchmarks/gpu/driver.py."""

    def __init__(self, file, name, defines={}, shared=0, folders=FOLDERS, library=None):
        library = library or _build(file, [name], defines, [Path(f) for f in folders])
        self.function = getattr(library, f"emulate_{name}")
        self.name, self.shared = name, shared

    def __call__(self, grid, block, *arguments, lazy=False, seed=0, resident=None, seconds=120.0):
        three = lambda n: _Three(*((n, 1, 1) if isinstance(n, int) else n))
        launch = _Launch(three(grid), three(block), self.shared, lazy, seed, seconds)
        values = []
        for argument in arguments:
            if isinstance(argument, numpy.ndarray):
                argument = ctypes.c_void_p(argument.ctypes.data)
            elif isinstance(argument, (bool, int, numpy.integer)):
                argument = ctypes.c_int(int(argument))
            elif isinstance(argument, (float, numpy.floating)):
                argument = ctypes.c_float(float(argument))
            values.append(argument)
        pointers = (ctypes.c_void_p * max(1, len(values)))(*[ctypes.addressof(v) for v in values])
        message = ctypes.create_string_buffer(2048)
        if self.function(
            ctypes.byref(launch), ctypes.c_uint(resident or os.cpu_count()), pointers, message, ctypes.c_size_t(len(message))):
            raise EmulationError(f"{self.name}: {message.value.decode()}")


def kernels(file, names, defines={}, shared=0, folders=FOLDERS):
    """Several kernels of one file, compiled once: {name: Kernel}."""
    library = _build(file, names, defines, [Path(f) for f in folders])
    return {name: Kernel(file, name, shared=shared, library=library) for name in names}


def aligned(shape, dtype, fill=None):
    """An array that starts at a multiple of 128 bytes, as allocations on a GPU do; the fill is 0xff bytes (NaN) unless given."""
    count = int(numpy.prod(shape)) * numpy.dtype(dtype).itemsize
    raw = numpy.full(count + 128, 255, dtype=numpy.uint8)
    start = -raw.ctypes.data % 128
    result = raw[start : start + count].view(dtype).reshape(shape)
    if fill is not None:
        result[...] = fill
    return result


def to_bf16(x):
    """float32 to bf16 bits, to nearest even."""
    bits = numpy.ascontiguousarray(x, dtype=numpy.float32).view(numpy.uint32)
    result = aligned(bits.shape, numpy.uint16)
    result[...] = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return result


def from_bf16(bits):
    """bf16 bits to float32."""
    return (bits.astype(numpy.uint32) << 16).view(numpy.float32)
