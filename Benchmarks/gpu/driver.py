"""The CUDA driver through ctypes: modules, tensor maps and launches, on PyTorch's context and streams."""

import ctypes

import torch

torch.cuda.init()
torch.zeros(1, device="cuda")
_cuda = ctypes.CDLL("libcuda.so.1")


def check(code, what):
    if code:
        name = ctypes.c_char_p()
        _cuda.cuGetErrorName(code, ctypes.byref(name))
        raise RuntimeError(f"{what}: {name.value.decode() if name.value else code}")


class Dim3(ctypes.Structure):
    _fields_ = [("x", ctypes.c_uint), ("y", ctypes.c_uint), ("z", ctypes.c_uint)]


class Attribute(ctypes.Structure):
    _fields_ = [("id", ctypes.c_int), ("pad", ctypes.c_int), ("value", ctypes.c_int), ("rest", ctypes.c_int * 15)]


class LaunchConfig(ctypes.Structure):
    _fields_ = [
        ("grid", Dim3), ("block", Dim3), ("shared", ctypes.c_uint), ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(Attribute)), ("count", ctypes.c_uint),
    ]


class Kernel:
    def __init__(self, cubin, name, shared=0):
        self.module, self.function, self.name, self.shared = ctypes.c_void_p(), ctypes.c_void_p(), name, shared
        check(_cuda.cuModuleLoadData(ctypes.byref(self.module), cubin), f"load {name}")
        check(_cuda.cuModuleGetFunction(ctypes.byref(self.function), self.module, name.encode()), name)
        if shared > 48 * 1024 - 1024:
            check(_cuda.cuFuncSetAttribute(self.function, 8, shared), f"{name}: {shared} bytes of shared memory")

    def __call__(self, grid, block, *arguments, overlap=False):
        grid = (grid, 1, 1) if isinstance(grid, int) else grid
        attribute = Attribute(6, 0, 1)
        config = LaunchConfig(
            Dim3(*grid), Dim3(block, 1, 1), self.shared, torch.cuda.current_stream().cuda_stream,
            ctypes.pointer(attribute), 1 if overlap else 0)
        values = []
        for argument in arguments:
            if isinstance(argument, torch.Tensor):
                argument = ctypes.c_void_p(argument.data_ptr())
            elif isinstance(argument, int):
                argument = ctypes.c_int(argument)
            elif isinstance(argument, float):
                argument = ctypes.c_float(argument)
            values.append(argument)
        pointers = (ctypes.c_void_p * len(values))(*[ctypes.addressof(v) for v in values])
        check(_cuda.cuLaunchKernelEx(ctypes.byref(config), self.function, pointers, None), f"launch {self.name}")


class TensorMap(ctypes.Structure):
    _fields_ = [("words", ctypes.c_ulonglong * 16)]


def tensor_map(pointer, shape, strides, box, bits=16, swizzle=None):
    """Innermost dimension first; strides in bytes, from the second on. bf16 in the 128-byte swizzle, bytes in the 64-byte one
    unless `swizzle` says otherwise."""
    rank = len(shape)
    aligned = (ctypes.c_char * 256)()
    address = (ctypes.addressof(aligned) + 63) // 64 * 64
    kind = {16: 9, 8: 0}[bits]  # bfloat16, uint8
    check(
        _cuda.cuTensorMapEncodeTiled(
            ctypes.c_void_p(address), kind, rank, ctypes.c_void_p(pointer), (ctypes.c_ulonglong * rank)(*shape),
            (ctypes.c_ulonglong * max(1, rank - 1))(*strides), (ctypes.c_uint * rank)(*box),
            (ctypes.c_uint * rank)(*[1] * rank), 0, swizzle if swizzle is not None else 3 if bits == 16 else 2, 2, 0),
        f"tensor map {shape} {strides} {box}")
    return TensorMap.from_buffer_copy(ctypes.string_at(address, 128))
