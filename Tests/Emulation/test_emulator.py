"""The emulator, on kernels that were found right on a GPU and on small ones that are wrong."""

import collections
import ctypes
import math
import re
import sys
import unittest
from pathlib import Path

import numpy

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "Benchmarks/gpu")]

import emulate
from emulate import EmulationError, Kernel, aligned, from_bf16, tensor_map, to_bf16
from settings import configure, query_panels

Geometry = collections.namedtuple("Geometry", "heads groups shared value key once")


# Kernels `float *out, int n` of a few lines: {name: body}. Compiled together, since most of that is the same for all.
DYNAMIC = "extern __shared__ __align__(1024) unsigned char memory[];"
OPERANDS = DYNAMIC + """
    u32 at = shared_address(memory);
    float d[8];
    for (int i = threadIdx.x; i < 512; i += 128) store_shared_16(at + i * 16, make_uint4(0, 0, 0, 0));
    __syncthreads();
    mma_fence();
    Mma<16>::ss(d, descriptor_rows(at), descriptor_rows(at), 0);
    mma_commit();"""
OVERWRITE = "for (int i = threadIdx.x; i < 512; i += 128) store_shared_16(at + i * 16, make_uint4(n, n, n, n));"
SMALL = {
    "sums": """
        __shared__ float parts[4];
        float x = threadIdx.x + blockIdx.x * blockDim.x + n;
        for (int i = 16; i > 0; i /= 2) x += __shfl_xor_sync(0xffffffff, x, i);
        if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
        __syncthreads();
        if (threadIdx.x < 4) atomicAdd(out + blockIdx.x, parts[threadIdx.x]);""",
    "racy": """
        __shared__ float x[128];
        x[threadIdx.x] = n;
        out[threadIdx.x] = x[127 - threadIdx.x];""",
    "reused": OPERANDS + "__syncthreads();" + OVERWRITE + "mma_wait<0>(); out[threadIdx.x] = d[0];",
    "kept": OPERANDS + "mma_wait<0>(); __syncthreads();" + OVERWRITE + "out[threadIdx.x] = d[0];",
    "stuck": "if (threadIdx.x < 32) named_sync(1, 64);",
    "counts": "if (threadIdx.x == 0) named_sync(1, 64); else named_sync(1, 96);",
    "uninitialised": "__shared__ u64 b; barrier_arrive(shared_address(&b));",
    "arrivals": """
        __shared__ u64 barrier;
        const u32 b = shared_address(&barrier);
        if (threadIdx.x == 0) { barrier_init(b, 1); barrier_expect(b, 16); barrier_arrive(b); }""",
    "outside": DYNAMIC + "store_shared_4(shared_address(memory) + 8192 + threadIdx.x * 4, 0);",
    "behind": DYNAMIC + "memory[8192] = 0;",
    "divergent": "if (threadIdx.x % 32 < 16) __shfl_sync(0xffffffff, n, 0);",
    "unwaited": OPERANDS,
}


class Small(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = emulate.BUILT / "small"
        folder.mkdir(parents=True, exist_ok=True)
        kernels = "".join(f'extern "C" __global__ void {n}(float *out, int n) {{{body}}}\n' for n, body in SMALL.items())
        (folder / "small.cu").write_text('#include "ptx.cuh"\n' + kernels)
        cls.kernels = emulate.kernels("small.cu", list(SMALL), shared=8192, folders=[folder])

    def test_threads_shuffles_and_barriers(self):
        out = aligned(3, numpy.float32)
        for seed in (0, 1):
            out[:] = 0
            self.kernels["sums"](3, 128, out, 5, seed=seed)
            numpy.testing.assert_array_equal(out, [sum(range(i * 128 + 5, i * 128 + 133)) for i in range(3)])

    def test_a_missing_barrier_shows(self):
        out = aligned(128, numpy.float32)
        self.kernels["racy"](1, 128, out, 5)
        self.assertTrue(numpy.isnan(out).any(), "shared memory starts as NaN")

    def test_mistakes_are_named(self):
        wrong = {
            "stuck": "all threads wait: 32 for named barrier 1", "counts": "of 64 threads and of 96",
            "uninitialised": "was not initialised", "arrivals": "more arrivals", "outside": "of dynamic shared memory",
            "behind": "behind its dynamic shared memory", "divergent": "lanes of its warp",
            "unwaited": "without waiting for its products"}
        for name, message in wrong.items():
            with self.subTest(name), self.assertRaisesRegex(EmulationError, re.escape(message)):
                self.kernels[name](1, 128, aligned(1, numpy.float32), 1, lazy=True)

    def test_late_products_show_reuse(self):
        """An operand that is overwritten before the wait for the product that reads it."""
        for name, clean in (("reused", False), ("kept", True)):
            out = aligned(128, numpy.float32)
            self.kernels[name](1, 128, out, 0x3F803F80, lazy=True)
            self.assertEqual(bool((out == 0).all()), clean)

    def test_every_wrapped_instruction_has_its_twin(self):
        names = re.compile(r"(?:__forceinline__|\binline) \w[\w ]*?[ *](\w+)\(")
        found = lambda path: set(names.findall(path.read_text()))
        kernels = found(next(f / "ptx.cuh" for f in emulate.FOLDERS if (f / "ptx.cuh").exists()))
        self.assertGreater(len(kernels), 40)
        self.assertEqual(kernels - found(HERE / "ptx.cuh") - {"NAME"}, set())


class Decode(unittest.TestCase):
    """decode.cu with its schedule, for one geometry: sequences of 0, 1 and more tokens, one cut over blocks."""

    geometry = Geometry(heads=32, groups=2, shared=64, value=0, key=32, once=1)
    tokens, lengths, page_size, workers, element_bytes = 2, [0, 1, 70, 900], 64, 4, 2

    def setUp(self):
        g, rng = self.geometry, numpy.random.default_rng()
        pages = [-(-n // self.page_size) for n in self.lengths]
        order = rng.permutation(sum(pages) + 1)
        self.table = aligned((len(pages), max(pages)), numpy.int32, 2**30)
        for b, count in enumerate(pages):
            self.table[b, :count] = order[sum(pages[:b]) : sum(pages[:b]) + count]
        row = g.shared + g.value
        self.rows_bytes = self.page_size * g.groups * row * self.element_bytes
        self.fill_cache(rng, len(order))
        self.query = to_bf16(rng.standard_normal((len(pages), self.tokens, g.heads, g.shared + g.key)))
        self.output = aligned((len(pages), self.tokens, g.heads, row), numpy.uint16)
        self.lse = aligned((len(pages), self.tokens, g.heads), numpy.float32)
        self.scale = 1 / math.sqrt(96)

    def fill_cache(self, rng, pages):
        g = self.geometry
        self.cache = to_bf16(rng.standard_normal((pages, self.page_size * (g.groups * g.shared + g.key))))
        values, cut = from_bf16(self.cache).astype(numpy.float64), self.rows_bytes // 2
        self.rows, self.keys = values[:, :cut].reshape(pages, g.groups, self.page_size, g.shared), values[:, cut:]

    def reference(self):
        g = self.geometry
        outputs, lses = [], []
        for b, n in enumerate(self.lengths):
            pages = self.table[b, : -(-n // self.page_size)]
            rows = self.rows[pages].swapaxes(1, 2).reshape(-1, g.groups, g.shared)[:n]
            key = self.keys[pages].reshape(-1, g.key)[:n]
            q = from_bf16(self.query)[b].astype(numpy.float64).reshape(self.tokens, g.groups, -1, g.shared + g.key)
            s = numpy.einsum("tghd,lgd->tghl", q[..., : g.shared], rows) + numpy.einsum("tghd,ld->tghl", q[..., g.shared :], key)
            seen = n - self.tokens + 1 + numpy.arange(self.tokens)
            s = numpy.where(numpy.arange(n) < seen[:, None, None, None], s * self.scale, -numpy.inf)
            with numpy.errstate(divide="ignore"):
                lse = numpy.log(numpy.exp(s).sum(-1))
            weights = numpy.exp(s - numpy.where(numpy.isfinite(lse), lse, 0)[..., None])
            outputs.append(numpy.einsum("tghl,lgd->tghd", weights, rows).reshape(self.tokens, g.heads, -1))
            lses.append(lse.reshape(self.tokens, g.heads))
        return numpy.stack(outputs), numpy.stack(lses)

    def compare(self, output, lse, tolerance):
        expected, exact = self.reference()
        for b in range(len(self.lengths)):
            norm = numpy.linalg.norm(expected[b]) or 1.0
            self.assertLess(numpy.linalg.norm(output[b] - expected[b]) / norm, tolerance, f"sequence {b}")
        numpy.testing.assert_allclose(lse, exact, atol=1e-3)

    def test_naive(self):
        g = self.geometry
        output, lse = aligned(self.output.shape, numpy.float32), aligned(self.lse.shape, numpy.float32)
        Naive = type("Naive", (ctypes.Structure,), {"_fields_": [(c, ctypes.c_int) for c in "abcdefgh"]})
        Kernel("naive_decode.cu", "naive_decode")(
            (g.heads, self.tokens, len(self.lengths)), 128, self.query, self.cache, self.table, self.table.shape[1],
            numpy.array(self.lengths, numpy.int32), output, lse,
            Naive(g.heads, g.groups, g.shared, g.key, g.value, g.once, self.page_size, 0), self.tokens, self.scale)
        self.compare(output, lse, 1e-6)

    def run_decode(self, page_size, lazy, seed):
        g, batch = self.geometry, len(self.lengths)
        per_group, width = g.heads // g.groups, g.shared + g.value
        fp8 = self.element_bytes == 1
        name, defines, shared, _ = configure(g, per_group * self.tokens, page_size, fp8)
        wide, block = name == "decode_wide", defines.get("BLOCK_N", 64)
        tile_rows = defines.get("ROWS", 64 * defines["WARPGROUPS"] // (2 if wide else 1))
        row_tiles = -(-per_group * self.tokens // tile_rows)
        lanes, workers, slots = g.groups * row_tiles, self.workers, 2 * self.workers
        pieces, splits = aligned((3 * workers + batch) * 8, numpy.int32, 0), aligned(workers * 4, numpy.int32, 0)
        arrivals, count = aligned(slots * lanes, numpy.int32, 7), aligned(1, numpy.int32, 0)
        lengths = aligned(batch, numpy.int32, self.lengths)
        Kernel("schedule.cu", "decode_schedule")(
            1, 256, lengths, batch, 1, workers, block, 2, 5, pieces, splits, arrivals, lanes, count, seed=seed)
        self.assertGreater(count[0], 0, "a sequence is cut")
        partial = aligned((slots, lanes, tile_rows, -(-width // 32) * 32), numpy.uint16)
        partial_lse = aligned((slots, lanes, tile_rows), numpy.float32)
        base, w, q = self.cache.ctypes.data, width, g.shared + g.key
        page_bytes, rows_bytes, size = self.cache.strides[0], self.rows_bytes, self.element_bytes
        box, head_box = min(page_size, block), min(64, per_group)
        rows = key = query = emulate.TensorMap()
        if page_size % 8 == 0:
            panels = w // 64 // (2 if wide else 1) if box == block else 1
            run = w if name == "decode_fp8_tall" else 64  # columns of a copy
            rows = tensor_map(
                base, (run, page_size, w // run, g.groups, len(self.cache)),
                (w * size, 64 * size, page_size * w * size, page_bytes), (run, box, 1 if run > 64 else panels, 1, 1),
                8 * size, 0 if run > 64 else None)
            key = tensor_map(base + rows_bytes, (g.key, page_size, len(self.cache)), (g.key * 2, page_bytes), (64, box, 1))
        if defines.get("QUERY_TILES"):
            query = tensor_map(
                self.query.ctypes.data, (64, per_group, batch * self.tokens, g.groups, q // 64),
                (q * 2, g.heads * q * 2, per_group * q * 2, 128),
                (64, head_box, 64 // head_box, 1, query_panels(q + (fp8 and q % 64 == 0))))
        fields = [(n, ctypes.c_void_p) for n in ("query", "cache", "table", "pieces", "splits", "arrivals", "output", "lse", "partial", "partial_lse")]
        fields += [("page_elements", ctypes.c_longlong)]
        fields += [(n, ctypes.c_int) for n in ("stride", "tokens", "heads", "per_group", "groups", "lanes", "row_tiles")]
        Parameters = type("Parameters", (ctypes.Structure,), {"_fields_": fields + [("scale", ctypes.c_float)]})
        parameters = Parameters(
            *[x.ctypes.data for x in (self.query, self.cache, self.table, pieces, splits, arrivals, self.output, self.lse, partial, partial_lse)],
            page_bytes // 2, self.table.shape[1], self.tokens, g.heads, per_group, g.groups, lanes,
            row_tiles, self.scale * math.log2(math.e))
        self.output[...], self.lse[...] = 0xFFFF, math.nan
        Kernel(name + ".cu", name, defines, shared)(
            workers * lanes, 128 + 128 * defines["WARPGROUPS"], rows, key, query, parameters, lazy=lazy, seed=seed,
            resident=workers * lanes)
        self.compare(from_bf16(self.output).astype(numpy.float64), self.lse, 5e-3)

    def test_decode(self):
        for lazy, seed in ((False, 0), (True, 0), (True, 1)):
            with self.subTest(lazy=lazy, seed=seed):
                self.run_decode(self.page_size, lazy, seed)


class WideDecode(Decode):
    """decode_wide.cu: blocks in pairs, a last one alone, two row tiles; scores that outgrow what weights are relative to."""

    geometry, page_size = Geometry(heads=64, groups=1, shared=512, value=0, key=64, once=1), 64

    def setUp(self):
        super().setUp()
        self.scale *= 10


class GatheredWideDecode(WideDecode):
    geometry, page_size = Geometry(heads=16, groups=1, shared=384, value=0, key=32, once=1), 1


class FewRowsDecode(WideDecode):
    """decode_few.cu."""

    geometry, page_size = Geometry(heads=8, groups=1, shared=512, value=0, key=64, once=1), 1


class FP8Decode(Decode):
    """decode_fp8.cu: warpgroups take blocks by turns, whose copies land in any order, in buffers that other warpgroups have used."""

    geometry, page_size, element_bytes = Geometry(heads=8, groups=1, shared=512, value=0, key=64, once=1), 64, 1

    def fill_cache(self, rng, pages):
        g, size = self.geometry, self.page_size
        codes = rng.integers(0, 256, (pages, g.groups, size, g.shared), numpy.uint8)
        codes[codes & 127 > 0x77] = 0  # up to 240
        exponent, mantissa = codes >> 3 & 15, codes & 7
        value = numpy.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7.0))
        scales = rng.choice([1 / 64, 1 / 32, 3 / 128], (pages, g.groups, size)).astype(numpy.float32)
        keys = to_bf16(rng.standard_normal((pages, size * g.key)))
        self.rows = numpy.where(codes & 128, -value, value) * scales[..., None]
        self.keys = from_bf16(keys).astype(numpy.float64)
        parts = [part.reshape(pages, -1).view(numpy.uint8) for part in (codes, keys, scales)]
        self.cache = aligned((pages, sum(p.shape[1] for p in parts)), numpy.uint8)
        self.cache[...] = numpy.concatenate(parts, 1)

    test_naive = None

    def test_decode(self):
        for seed in range(6):
            with self.subTest(seed=seed):
                self.run_decode(self.page_size, True, seed)


class TallFP8Decode(FP8Decode):
    """decode_fp8_tall.cu: keys and scales land apart from rows."""

    geometry = Geometry(heads=32, groups=1, shared=256, value=0, key=64, once=1)


if __name__ == "__main__":
    unittest.main()
