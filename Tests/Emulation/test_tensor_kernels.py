"""The tensor kernels, run on the CPU, against float64: odd shapes, both types, addresses that allow wide accesses and not."""

import ctypes
import functools
import math
import re
import subprocess
import sys
import unittest
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

import emulate
from emulate import aligned, from_bf16, to_bf16

KERNELS = emulate.ROOT / "Sources/ApusTensor/Kernels"
NONE = ctypes.c_void_p(0)
F32, BF16 = "f32", "bf16"


@functools.cache
def entries(file):
    """The kernels that a file declares, by expanding its macros."""
    text = re.sub(r'#include "[^"]*"', "", (KERNELS / file).read_text())
    command = [emulate.compiler(), "-E", "-P", "-x", "c++", "-"]
    plain = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
    return re.findall(r'extern "C" __global__ void (?:__launch_bounds__\([^)]*\)\s*)?(\w+)', plain)


@functools.cache
def kernels(file, defines):
    return emulate.kernels(file, entries(file), dict(defines))


def kernel(file, name, shared=0, **defines):
    found = kernels(file, tuple(sorted(defines.items())))[name]
    found.shared = shared
    return found


def array(x, kind=F32, shift=0):
    """Values as a device would hold them; `shift` elements beyond an aligned address."""
    x = np.asarray(x)
    bits = to_bf16(x) if kind == BF16 else np.asarray(x, np.float32)
    whole = aligned(x.size + shift, bits.dtype)
    result = whole[shift:].reshape(x.shape)
    result[...] = bits
    return result


def empty(shape, kind=F32, shift=0):
    size = int(np.prod(shape))
    return aligned(size + shift, np.uint16 if kind == BF16 else np.float32)[shift:].reshape(shape)


def values(x):
    """What an array holds, in float64."""
    return (from_bf16(x) if x.dtype == np.uint16 else x).astype(np.float64)


def integers(x):
    result = aligned(len(x), np.int32)
    result[...] = x
    return result


def long(x):
    return ctypes.c_longlong(x)


def error(a, b):
    b = np.asarray(b, np.float64)
    return float(np.linalg.norm(values(a) - b) / max(np.linalg.norm(b), 1e-300))


TOLERANCE = {F32: 2e-6, BF16: 4e-3}
# Rows, width, shift of addresses.
SHAPES = [(1, 1, 0), (3, 7, 0), (5, 64, 0), (2, 130, 1), (7, 576, 0), (3, 1030, 0), (2, 2048, 1)]


class TensorKernels(unittest.TestCase):
    def setUp(self):
        self.random = np.random.default_rng(11)

    def normal(self, *shape):
        return self.random.standard_normal(shape)

    def close(self, found, expected, kind=F32, factor=1.0, what=""):
        self.assertLess(error(found, expected), TOLERANCE[kind] * factor, what)

    def twice(self, launch, *outputs):
        """Launches with threads in two orders, which must give the same bits."""
        before = [o.copy() for o in outputs]
        launch(seed=0)
        first = [o.copy() for o in outputs]
        for output, old in zip(outputs, before):
            output[...] = old
        launch(seed=5)
        for output, old in zip(outputs, first):
            self.assertTrue(np.array_equal(output.view(np.uint16), old.view(np.uint16)), "a race")

    # ---- elementwise.cu ----

    def test_conversion_sums_and_scales(self):
        for count, shift in [(1, 0), (7, 0), (1024, 0), (4100, 1), (2056, 0)]:
            x, y = self.normal(count), self.normal(count)
            for kind, other in [(F32, BF16), (BF16, F32)]:
                a, out = array(x, kind, shift), empty(count, other, shift)
                kernel("elementwise.cu", f"convert_{kind}_{other}")(2, 256, a, out, long(count))
                self.assertTrue(np.array_equal(out, to_bf16(x.astype(np.float32)) if other == BF16 else from_bf16(a)))
            for kind, into in [(F32, F32), (BF16, F32), (BF16, BF16)]:
                a, b = array(x, kind, shift), array(y, into, shift)
                expected = values(a) + values(b)
                self.twice(lambda seed: kernel("elementwise.cu", f"add_{kind}_{into}")(3, 256, a, b, long(count), seed=seed), b)
                self.close(b, expected, into)
            for kind in (F32, BF16):
                for factor, scalar in [(0.3, NONE), (9.0, array([0.3]))]:
                    a = array(x, kind, shift)
                    expected = values(a) * np.float32(0.3)
                    kernel("elementwise.cu", f"scale_{kind}")(2, 256, a, factor, scalar, long(count))
                    self.close(a, expected, kind)

    def test_rows_copied_and_repeated(self):
        for rows, columns, x_stride, stride in [(1, 1, 0, 1), (5, 7, 0, 9), (3, 64, 80, 64), (4, 12, 0, 20), (3, 9, 13, 9)]:
            x = array(self.normal(max(rows * x_stride, columns)))
            for kind in (F32, BF16):
                out = empty((rows, stride), kind)
                kernel("elementwise.cu", f"copy_rows_f32_{kind}")(
                    2, 256, x, long(x_stride), out, long(stride), rows, columns)
                expected = [values(x)[i * x_stride : i * x_stride + columns] for i in range(rows)]
                self.close(out[:, :columns], expected, kind)
                self.assertTrue((out[:, columns:].reshape(-1).view(np.uint8) == 255).all(), "nothing beside is written")

    def test_matrices_transposed(self):
        for matrices, rows, columns, gap in [(1, 1, 1, 0), (3, 40, 33, 5), (2, 64, 96, 0), (5, 7, 130, 64)]:
            x = array(self.normal(matrices, rows * columns + gap))
            out = empty((matrices, columns, rows), BF16)
            kernel("elementwise.cu", "transpose_f32_bf16")(
                3, 256, x, long(rows * columns + gap), out, matrices, rows, columns)
            expected = values(x)[:, : rows * columns].reshape(matrices, rows, columns).transpose(0, 2, 1)
            self.close(out, expected, BF16)

    def test_heads_copied_and_added(self):
        for tokens, heads, width, gap in [(1, 1, 1, 0), (5, 3, 24, 8), (3, 2, 7, 3)]:
            token_stride, head_stride = heads * (width + gap) + 2, width + gap
            for kind, out_kind in [(BF16, BF16), (F32, F32)]:
                x = array(self.normal(tokens, heads, width), kind)
                for adds in (0, 1):
                    out = array(self.normal(tokens, token_stride), out_kind)
                    expected = values(out)
                    view = expected[:, : heads * head_stride].reshape(tokens, heads, head_stride)[:, :, :width].copy()
                    kernel("elementwise.cu", f"copy_heads_{kind}")(
                        2, 256, x, long(heads * width), long(width), out, long(token_stride), long(head_stride), tokens, heads,
                        width, adds)
                    after = values(out)
                    found = after[:, : heads * head_stride].reshape(tokens, heads, head_stride)[:, :, :width]
                    self.close(found, values(x) + adds * view, out_kind)
                    inside = np.zeros((tokens, token_stride), bool)
                    inside[:, : heads * head_stride].reshape(tokens, heads, head_stride)[:, :, :width] = True
                    self.assertTrue(np.array_equal(after[~inside], expected[~inside]), "nothing beside is written")

    def test_activations(self):
        erfc = np.vectorize(math.erfc)
        formulas = [
            lambda x: x / (1 + np.exp(-x)), lambda x: 0.5 * x * erfc(-x / math.sqrt(2)),
            lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))]
        for kind, formula in enumerate(formulas):
            for count in (1, 6, 1000):
                x, f = self.normal(count) * 3, self.normal(count)
                if kind > 0:
                    x[0] = -4.5  # where one plus the error function is next to nothing
                for factor in (None, array(f)):
                    a = array(x)
                    expected = formula(values(a)) * (1 if factor is None else values(factor))
                    kernel("elementwise.cu", "activate")(2, 256, a, NONE if factor is None else factor, kind, long(count))
                    self.close(a, expected)

    # ---- swiglu.cu ----

    def test_swiglu(self):
        for rows, width, gap, shift in [(1, 1, 0, 0), (3, 3, 2, 0), (2, 1024, 0, 0), (5, 220, 4, 1), (4, 64, 64, 0)]:
            stride = width + gap
            x, u, d = self.normal(rows, stride) * 4, self.normal(rows, stride), self.normal(rows, width)
            if width > 1:
                x[0, 0] = -200.0
            for kind, out_kind in [(F32, F32), (F32, BF16), (BF16, BF16)]:
                gate, up, out = array(x, kind, shift), array(u, kind, shift), empty((rows, width), out_kind, shift)
                kernel("swiglu.cu", f"swiglu_forward_{kind}_{out_kind}")(2, 256, gate, up, out, rows, width, long(stride))
                g, v = values(gate)[:, :width], values(up)[:, :width]
                self.close(out, g / (1 + np.exp(-g)) * v, out_kind)
            for kind, d_kind, out_kind in [(F32, F32, F32), (F32, F32, BF16), (BF16, F32, BF16), (BF16, BF16, BF16)]:
                gate, up, gradient = array(x, kind, shift), array(u, kind, shift), array(d, d_kind, shift)
                d_stride = width + 2 * gap
                d_gate, d_up = empty((rows, d_stride), out_kind, shift), empty((rows, d_stride), out_kind, shift)
                kernel("swiglu.cu", f"swiglu_backward_{kind}_{d_kind}_{out_kind}")(
                    2, 256, gate, up, gradient, d_gate, d_up, rows, width, long(stride), long(d_stride))
                g, v = values(gate)[:, :width], values(up)[:, :width]
                s = 1 / (1 + np.exp(-g))
                self.close(d_gate[:, :width], values(gradient) * v * s * (1 + g * (1 - s)), out_kind)
                self.close(d_up[:, :width], values(gradient) * g * s, out_kind)

    # ---- norm.cu ----

    def norm_forward(self, rows, width, group, shift, x_kind, addend_kind, out_kind, parts=None):
        x, weight = array(self.normal(rows, width), x_kind, shift), array(self.normal(width), F32, shift)
        addend = array(self.normal(rows, width), addend_kind, shift) if x_kind == F32 else None
        for other in {None, 1} if addend is not None else {None}:
            total, out, inverses = empty((rows, width), F32, shift), empty((rows, width), out_kind, shift), empty(rows)
            pitch = (width + 3) // 4 * 4
            shared = pitch * 4 * (8 if group == 32 else 1)
            if parts:
                run, strides = kernel(
                    "norm_registers.cu", f"rms_norm_forward_registers_{addend_kind}_{out_kind}", PARTS=parts), ()
            else:
                run, strides = kernel(
                    "norm.cu", f"rms_norm_forward_{group}_{x_kind}_{addend_kind}_{out_kind}", shared), (1, long(width), long(width))
            with_addend = other is not None
            self.twice(
                lambda seed: run(
                    2, 256, x, addend if with_addend else NONE, total if with_addend else NONE, weight, 1e-3, out, inverses,
                    rows, width, *strides, seed=seed), total, out, inverses)
            exact = values(x) + (values(addend) if with_addend else 0)
            inverse = 1 / np.sqrt((exact**2).mean(1) + np.float32(1e-3))
            if with_addend:
                self.close(total, exact)
            self.close(inverses, inverse)
            self.close(out, exact * inverse[:, None] * values(weight), out_kind)

    def test_rms_norm(self):
        kinds = [(F32, F32, F32), (F32, BF16, BF16), (F32, F32, BF16), (F32, BF16, F32), (BF16, BF16, BF16), (BF16, BF16, F32)]
        for rows, width, shift in SHAPES:
            for group in (32, 256):
                for x_kind, addend_kind, out_kind in kinds if width in (7, 576) else kinds[:2]:
                    with self.subTest(rows=rows, width=width, group=group, kinds=(x_kind, addend_kind, out_kind)):
                        self.norm_forward(rows, width, group, shift, x_kind, addend_kind, out_kind)

    def test_rms_norm_in_registers(self):
        for rows, width, parts in [(3, 4, 1), (20, 132, 2), (19, 576, 5), (9, 768, 6), (3, 1024, 8)]:
            for addend_kind, out_kind in [(F32, F32), (F32, BF16), (BF16, F32), (BF16, BF16)]:
                with self.subTest(rows=rows, width=width, kinds=(addend_kind, out_kind)):
                    self.norm_forward(rows, width, 32, 0, F32, addend_kind, out_kind, parts)
            for d_kind in (F32, BF16):
                with self.subTest(rows=rows, width=width, kind=d_kind):
                    self.norm_backward(rows, width, 32, 0, F32, d_kind, min(rows, 2), parts)

    def test_rms_norm_of_groups_in_a_view(self):
        for tokens, groups, width, gap, shift in [(3, 2, 7, 3, 0), (4, 3, 64, 16, 0), (2, 4, 96, 4, 1)]:
            for group in (32, 256):
                token_stride, group_stride = groups * (width + gap) + gap, width + gap
                x = array(self.normal(tokens, token_stride), F32, shift)
                weight, out = array(self.normal(groups, width)), empty((tokens, groups, width))
                run = kernel("norm.cu", f"rms_norm_forward_{group}_f32_f32_f32", (width + 3) // 4 * 16 * (8 if group == 32 else 1))
                run(
                    2, 256, x, NONE, NONE, weight, 1e-3, out, NONE, tokens * groups, width, groups, long(token_stride),
                    long(group_stride))
                view = values(x)[:, : groups * group_stride].reshape(tokens, groups, group_stride)[:, :, :width]
                self.close(out, view / np.sqrt((view**2).mean(2, keepdims=True) + 1e-3) * values(weight))

    def norm_backward(self, rows, width, group, shift, x_kind, d_kind, blocks, parts=None):
        x, weight = array(self.normal(rows, width), x_kind, shift), array(self.normal(width), F32, shift)
        d, base = array(self.normal(rows, width), d_kind, shift), array(self.normal(rows, width), F32, shift)
        exact, dy, w = values(x), values(d), values(weight)
        inverse = 1 / np.sqrt((exact**2).mean(1, keepdims=True) + 1e-3)
        inverses = array(inverse[:, 0])
        dot = (dy * w * exact).mean(1, keepdims=True)
        dx = inverse * (dy * w - exact * inverse**2 * dot)
        chunk = -(-rows // blocks)
        pitch = (width + 3) // 4 * 4
        shared = pitch * 12 * (8 if group == 32 else 1)
        if parts:
            run = kernel("norm_registers.cu", f"rms_norm_backward_registers_{d_kind}", PARTS=parts)
        else:
            run = kernel("norm.cu", f"rms_norm_backward_{group}_{x_kind}_{d_kind}", shared)
        # One element is its own mean: what remains of its gradient is what rounding leaves.
        factor = 20 if width == 1 else 1
        for in_place in (False, True):
            result = base.copy() if in_place else empty((rows, width), F32, shift)
            if in_place:
                result = array(values(base), F32, shift)
            partials, narrow = empty((blocks, width)), empty((rows, width), BF16, shift)
            self.twice(
                lambda seed: run(
                    blocks, 256, x, weight, inverses, d, result if in_place else NONE, result, narrow, partials, rows, width,
                    chunk, seed=seed), result, narrow, partials)
            self.close(result, dx + (values(base) if in_place else 0), factor=factor)
            self.assertTrue(np.array_equal(narrow, to_bf16(result)))
            before = self.normal(width)
            for adds in (1, 0):
                total = array(before)
                expected = adds * values(total) + (dy * exact * inverse).sum(0)
                kernel("reductions.cu", "add_partials")(-(-width // 32), 1024, partials, total, blocks, width, adds)
                self.close(total, expected)
        run(blocks, 256, x, weight, inverses, d, NONE, result, NONE, NONE, rows, width, chunk)
        self.close(result, dx, factor=factor)

    def test_rms_norm_backward(self):
        kinds = [(F32, F32), (F32, BF16), (BF16, F32), (BF16, BF16)]
        for rows, width, shift in SHAPES + [(40, 33, 0)]:
            for group in (32, 256):
                for x_kind, d_kind in kinds if width in (7, 576) else kinds[:1]:
                    with self.subTest(rows=rows, width=width, group=group, kinds=(x_kind, d_kind)):
                        self.norm_backward(rows, width, group, shift, x_kind, d_kind, min(rows, 3))

    def test_layer_norm(self):
        for rows, width, shift in SHAPES:
            x, weight, bias = array(self.normal(rows, width) + 3, F32, shift), array(self.normal(width)), array(self.normal(width))
            for b in (bias, None):
                out = empty((rows, width), F32, shift)
                run = kernel("norm.cu", "layer_norm", (width + 3) // 4 * 16)
                self.twice(lambda seed: run(2, 256, x, weight, NONE if b is None else b, 1e-5, out, rows, width, seed=seed), out)
                exact = values(x)
                centred = exact - exact.mean(1, keepdims=True)
                expected = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5) * values(weight)
                self.close(out, expected + (0 if b is None else values(b)), factor=5)

    # ---- embedding.cu ----

    def test_rows_gathered(self):
        for width, shift in [(1, 0), (7, 0), (64, 0), (576, 0), (130, 1)]:
            rows = integers([3, 0, 3, 6, -2, 7, 2, -1])
            table = self.normal(7, width)
            for kind, out_kind in [(F32, F32), (F32, BF16), (BF16, F32), (BF16, BF16)]:
                t, out = array(table, kind, shift), empty((8, width), out_kind, shift)
                kernel("embedding.cu", f"gather_rows_{kind}_{out_kind}")(1, 256, rows, t, out, 8, width, long(7))
                self.close(out[[0, 1, 2, 3, 6]], values(t)[[3, 0, 3, 6, 2]], out_kind)
                self.assertTrue(np.isnan(values(out)[[4, 5]]).all(), "rows outside of the table")
                self.assertTrue((values(out)[7] == 0).all(), "no row")

    def test_rows_added(self):
        for width, shift, places in [(1, 0, 3), (7, 0, 50), (130, 1, 100), (576, 0, 40)]:
            ids = self.random.integers(0, 6, places)
            order = np.argsort(ids, kind="stable")
            met, starts = np.unique(ids[order], return_index=True)
            for kind in (F32, BF16):
                gradient, table = array(self.normal(places, width), kind, shift), array(self.normal(6, width), F32, shift)
                expected = values(table)
                np.add.at(expected, ids, values(gradient))
                run = kernel("embedding.cu", f"add_to_rows_{kind}")
                self.twice(
                    lambda seed: run(
                        (len(met), -(-width // 128), 1), 256, integers(order), integers(list(starts) + [places]), integers(met),
                        gradient, table, width, seed=seed), table)
                self.close(table, expected)
                table[...] = array(expected)
                np.add.at(expected, ids, values(gradient))
                run = kernel("embedding.cu", f"add_to_rows_few_{kind}")
                self.twice(
                    lambda seed: run(
                        2, 256, integers(order), integers(list(starts) + [places]), integers(met), gradient, table, len(met),
                        width, seed=seed), table)
                self.close(table, expected)

    # ---- rope.cu ----

    def test_rotation(self):
        for tokens, heads, pairs, gap, offset in [(1, 1, 1, 0, 0), (3, 2, 5, 3, 1), (4, 3, 32, 0, 0), (2, 5, 16, 64, 32), (2, 2, 6, 4, 0)]:
            head_stride = 2 * pairs + gap
            angle = self.normal(tokens, pairs)
            cosine, sine = array(np.cos(angle)), array(np.sin(angle))
            for kind in (F32, BF16):
                for interleaved in (0, 1):
                    whole = array(self.normal(tokens * heads * head_stride + offset), kind)
                    old = values(whole)
                    base = whole[offset:]
                    kernel("rope.cu", f"rotate_{kind}")(
                        2, 256, base, cosine, sine, tokens, heads, pairs, long(heads * head_stride), long(head_stride), interleaved)
                    expected = old.copy()
                    view = expected[offset:].reshape(tokens, heads, head_stride)
                    part = view[:, :, : 2 * pairs]
                    a, b = (part[..., 0::2], part[..., 1::2]) if interleaved else (part[..., :pairs], part[..., pairs:])
                    c, s = values(cosine)[:, None], values(sine)[:, None]
                    a, b = a * c - b * s, b * c + a * s
                    if interleaved:
                        view[:, :, 0 : 2 * pairs : 2], view[:, :, 1 : 2 * pairs : 2] = a, b
                    else:
                        view[:, :, :pairs], view[:, :, pairs : 2 * pairs] = a, b
                    self.close(whole, expected, kind)

    def test_angles(self):
        positions, pairs = [0, 1, 131071, 5, 77], 3
        frequencies = aligned(pairs, np.float64)
        frequencies[...] = [1.0, 0.01, 0.3]
        cosine, sine = empty((5, pairs)), empty((5, pairs))
        kernel("rope.cu", "rotary_angles")(1, 256, integers(positions), frequencies, ctypes.c_double(1.25), cosine, sine, 5, pairs)
        angle = np.array(positions)[:, None] * frequencies
        self.close(cosine, 1.25 * np.cos(angle))
        self.close(sine, 1.25 * np.sin(angle))

    # ---- reductions.cu ----

    def test_column_sums(self):
        for rows, columns, stride, shift in [(1, 1, 1, 0), (70, 7, 9, 1), (300, 130, 136, 0), (513, 64, 64, 0)]:
            for kind in (F32, BF16):
                x = array(self.normal(rows, stride), kind, shift)
                chunks = -(-rows // 256)
                partials, sums = empty((chunks, columns)), array(self.normal(columns))
                expected = values(sums) + values(x)[:, :columns].sum(0)
                run = kernel("reductions.cu", f"column_sums_{kind}")
                self.twice(
                    lambda seed: run((-(-columns // 128), chunks, 1), 256, x, rows, columns, long(stride), partials, seed=seed),
                    partials)
                add = kernel("reductions.cu", "add_partials")
                self.twice(lambda seed: add(-(-columns // 32), 1024, partials, sums, chunks, columns, 1, seed=seed), sums)
                self.close(sums, expected)

    def test_checksum(self):
        x = self.random.integers(0, 1 << 32, (70, 300), np.uint32)
        run = kernel("reductions.cu", "checksum")

        def checksum(x, rows=70, words=290):
            memory = aligned(x.shape, np.uint32)
            memory[...] = x
            partials = aligned(3, np.uint64)
            self.twice(lambda seed: run(3, 256, memory, rows, words, long(300), partials, seed=seed), partials)
            return partials.sum()

        first = checksum(x)
        x[:, 290:] = 7
        self.assertEqual(checksum(x), first, "beyond the rows")
        x[69, 289] ^= 1
        self.assertNotEqual(checksum(x), first, "one bit")
        x[69, 289] ^= 1
        x[3, 4], x[3, 5] = x[3, 5], x[3, 4]
        self.assertNotEqual(checksum(x), first, "places")

    def test_sum_of_squares(self):
        counts = [1, 16384, 5, 40000, 16385]
        tensors = [array(self.normal(n), F32, i % 2) for i, n in enumerate(counts)]

        class Tensor(ctypes.Structure):
            _fields_ = [("values", ctypes.c_void_p), ("count", ctypes.c_longlong), ("first", ctypes.c_int), ("unused", ctypes.c_int)]

        blocks, table = 0, (Tensor * len(counts))()
        for i, (tensor, count) in enumerate(zip(tensors, counts)):
            table[i] = Tensor(tensor.ctypes.data, count, blocks, 0)
            blocks += -(-count // 16384)
        partials, result = aligned(blocks, np.float64), aligned(1, np.float64)
        pointer = ctypes.c_void_p(ctypes.addressof(table))
        run, add = kernel("reductions.cu", "sum_of_squares"), kernel("reductions.cu", "sum_float64")
        self.twice(lambda seed: run(blocks, 256, pointer, len(counts), partials, seed=seed), partials)
        self.twice(lambda seed: add(1, 256, partials, blocks, result, seed=seed), result)
        expected = sum((values(t) ** 2).sum() for t in tensors)
        self.assertLess(abs(result[0] - expected), 1e-13 * expected)
        tensors[3][17] = np.nan
        run(blocks, 256, pointer, len(counts), partials)
        add(1, 256, partials, blocks, result)
        self.assertTrue(np.isnan(result[0]))

    def test_weighted_sum(self):
        for count in (1, 255, 1000):
            a, b, out = array(self.normal(count)), array(self.normal(count)), empty(1)
            run = kernel("reductions.cu", "weighted_sum")
            run(1, 256, a, b, -1.0, count, out)
            self.assertLess(abs(out[0] + values(a) @ values(b)), 1e-6 * np.abs(values(a) * values(b)).sum())
            run(1, 256, a, NONE, 2.0, count, out)
            self.assertLess(abs(out[0] - 2 * values(a).sum()), 1e-6 * np.abs(values(a)).sum())

    # ---- cross_entropy.cu ----

    def test_cross_entropy(self):
        for rows, width, shift in [(1, 1, 0), (3, 37, 0), (4, 5000, 0), (3, 4097, 1), (2, 8192, 0), (9, 9016, 0)]:
            targets = integers([-1 if i == 1 else (i * 31) % width for i in range(rows)])
            scales = array(self.normal(rows))
            for kind, out_kind in [(F32, F32), (F32, BF16), (BF16, BF16)]:
                start = self.normal(rows, width) * 4 + 50
                start[0, 0] = -np.inf if width > 1 and targets[0] != 0 else start[0, 0]
                ways = [("in place", 0), ("in place", 1), ("beside", 0), ("beside", 1), ("none", 0)]
                if kind == BF16 and width % 8 == 0:
                    ways += [("in place", "ahead"), ("beside", "ahead"), ("none", "ahead")]
                for way, kept in ways:
                    if way == "in place" and kind != out_kind:
                        continue
                    x = array(start, kind, shift)
                    exact = values(x)
                    out = x if way == "in place" else empty((rows, width), out_kind, shift)
                    found = empty(rows)
                    if kept == "ahead":
                        run = kernel("cross_entropy_ahead.cu", "cross_entropy_ahead", 2 * (-(-width // 64) * 128))
                        threads, last = 1024, ()
                    else:
                        shared = -(-width * x.itemsize // 32) * 32 if kept else 0
                        run = kernel("cross_entropy.cu", f"cross_entropy_{kind}_{out_kind}", shared)
                        threads, last = 512, (kept,)
                    self.twice(
                        lambda seed: run(
                            2, threads, x, targets, scales, NONE if way == "none" else out, found, rows, width, *last, seed=seed),
                        found, out)
                    top = exact.max(1, keepdims=True)
                    log_sum = top[:, 0] + np.log(np.exp(exact - top).sum(1))
                    expected = np.array([0 if t < 0 else exact[i, t] - log_sum[i] for i, t in enumerate(targets)])
                    self.assertLess(np.abs(found - expected).max(), 1e-5)
                    if way == "none":
                        continue
                    p = np.exp(exact - log_sum[:, None])
                    for i, t in enumerate(targets):
                        p[i, t] -= 1
                        p[i] *= 0 if t < 0 else values(scales)[i]
                    self.assertLess(np.linalg.norm(values(out) - p), (1e-5 if out_kind == F32 else 3e-3) * max(np.linalg.norm(p), 1e-3))

    def test_a_logit_that_is_not_a_number_shows(self):
        for wrong in (np.nan, np.inf):
            x = array(np.zeros((1, 600)))
            x[0, 599] = wrong
            found = empty(1)
            kernel("cross_entropy.cu", "cross_entropy_f32_f32")(1, 512, x, integers([3]), array([1.0]), x, found, 1, 600, 0)
            self.assertFalse(np.isfinite(found[0]))

    # ---- sharded_cross_entropy.cu ----

    def test_sharded_cross_entropy(self):
        for rows, widths, shift in [(1, (1, 1), 0), (3, (37, 50), 0), (4, (4096, 5000), 0), (9, (515, 3), 1)]:
            vocabulary = sum(widths)
            targets = np.array([-1 if i == 1 else (i * 3131) % vocabulary for i in range(rows)])
            scales = array(self.normal(rows))
            for kind, out_kind in [(F32, F32), (F32, BF16), (BF16, BF16)]:
                for way in ("in place", "beside", "none"):
                    if way == "in place" and kind != out_kind:
                        continue
                    starts = np.split(self.normal(rows, vocabulary) * 4 + 50, [widths[0]], 1)
                    parts = [array(part, kind, shift) for part in starts]
                    exact = np.concatenate([values(part) for part in parts], 1)
                    numbers, outs = [], []
                    for rank, (x, width) in enumerate(zip(parts, widths)):
                        own = targets - rank * widths[0]
                        local = integers([-2 if t < 0 else o if 0 <= o < width else -1 for t, o in zip(targets, own)])
                        outs.append(x if way == "in place" else empty((rows, width), out_kind, shift))
                        numbers.append((local, *(empty(rows) for _ in range(4))))
                        kernel("sharded_cross_entropy.cu", f"shard_statistics_{kind}")(
                            2, 512, x, local, numbers[-1][1], numbers[-1][2], numbers[-1][3], rows, width)
                    most = np.maximum(numbers[0][2], numbers[1][2])
                    for (local, here, largest, sums, chosen), x, width in zip(numbers, parts, widths):
                        largest[:] = most
                        kernel("sharded_cross_entropy.cu", f"shard_merge_{kind}")(
                            1, 256, x, local, here, largest, sums, chosen, rows, width)
                    for place in (3, 4):
                        total = numbers[0][place] + numbers[1][place]
                        for each in numbers:
                            each[place][:] = total
                    top = exact.max(1, keepdims=True)
                    log_sum = top[:, 0] + np.log(np.exp(exact - top).sum(1))
                    expected = np.array([0 if t < 0 else exact[i, t] - log_sum[i] for i, t in enumerate(targets)])
                    for (local, _, largest, sums, chosen), x, out, width in zip(numbers, parts, outs, widths):
                        found = empty(rows)
                        kernel("sharded_cross_entropy.cu", f"shard_gradient_{kind}_{out_kind}")(
                            2, 512, x, local, scales, largest, sums, chosen, NONE if way == "none" else out, found, rows, width)
                        self.assertLess(np.abs(found - expected).max(), 1e-5)
                    if way == "none":
                        continue
                    p = np.exp(exact - log_sum[:, None])
                    for i, t in enumerate(targets):
                        p[i, t] -= 1
                        p[i] *= 0 if t < 0 else values(scales)[i]
                    found = np.concatenate([values(out) for out in outs], 1)
                    self.assertLess(np.linalg.norm(found - p), (1e-5 if out_kind == F32 else 3e-3) * max(np.linalg.norm(p), 1e-3))

    # ---- adamw.cu ----

    def test_adamw(self):
        class Tensor(ctypes.Structure):
            _fields_ = [(n, ctypes.c_void_p) for n in ("gradient", "values", "first", "second", "narrow")] + [
                ("count", ctypes.c_longlong), ("decay", ctypes.c_float), ("first_block", ctypes.c_int)]

        class Step(ctypes.Structure):
            _fields_ = [(n, ctypes.c_float) for n in (
                "rate", "beta1", "beta2", "epsilon", "correction1", "correction2", "scale", "clip")] + [("squares", ctypes.c_void_p)]

        for squares, clip in [(None, 0.0), (16.0, 1.0), (0.25, 1.0), (16.0, 0.0), (math.nan, 1.0), (math.inf, 0.0)]:
            counts = [(1, 0, True), (1003, 1, False), (16384, 0, True), (20000, 0, True)]
            sets, before, table, blocks = [], [], (Tensor * len(counts))(), 0
            for i, (count, shift, narrow) in enumerate(counts):
                made = [array(self.normal(count), F32, shift) for _ in range(3)] + [array(self.normal(count) ** 2, F32, shift)]
                copy = empty(count, BF16, shift)
                sets.append(made + [copy])
                before.append([values(m) for m in made])
                g, w, m, v = made
                table[i] = Tensor(
                    g.ctypes.data, w.ctypes.data, m.ctypes.data, v.ctypes.data, copy.ctypes.data if narrow else None, count,
                    0.1 * i, blocks)
                blocks += -(-count // 16384)
            norm = aligned(1, np.float64)
            norm[0] = squares or 0
            step = Step(0.01, 0.9, 0.95, 1e-8, 0.271, 0.142625, 0.5, clip, norm.ctypes.data if squares is not None else None)
            kernel("adamw.cu", "adamw")(blocks, 256, ctypes.c_void_p(ctypes.addressof(table)), len(counts), step)
            factor = 0.5
            if squares is not None and clip and math.sqrt(squares) * 0.5 > clip:
                factor = 0.5 * clip / (math.sqrt(squares) * 0.5)
            for i, (old, new) in enumerate(zip(before, sets)):
                g, w, m, v = old
                if squares is not None and not math.isfinite(squares):
                    self.assertTrue(all(np.array_equal(values(a), b) for a, b in zip(new, old)), "nothing changes")
                    continue
                first, second = 0.9 * m + 0.1 * g * factor, 0.95 * v + 0.05 * (g * factor) ** 2
                change = first / 0.271 / (np.sqrt(second / 0.142625) + 1e-8)
                self.close(new[1], w - 0.01 * (change + np.float32(0.1 * i) * w))
                self.close(new[2], first)
                self.close(new[3], second)
                if counts[i][2]:
                    self.assertTrue(np.array_equal(new[4], to_bf16(new[1])))


if __name__ == "__main__":
    unittest.main()
