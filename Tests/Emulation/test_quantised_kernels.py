"""The kernels of quantised weights, run on the CPU, against float64: from a file's blocks to products of few and many rows."""

import ctypes
import sys
import unittest
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

import emulate
from emulate import aligned, to_bf16
from test_decoder_kernels import ADD, CHOOSE, PARTS, STORE, SWIGLU, Case, RowProduct, address, array, error, wide

FORMATS = {"q8_0": 1, "q4_0": 2, "q4_1": 3, "q4_K": 4, "q6_K": 5}
# Elements and bytes of a file's block; bytes of 64 elements of 16 rows on the GPU, and before every four of those.
BLOCKS = {"q8_0": (32, 34), "q4_0": (32, 18), "q4_1": (32, 20), "q4_K": (256, 144), "q6_K": (256, 210)}
UNITS = {"q8_0": (1088, 0), "q4_0": (576, 0), "q4_1": (640, 0), "q4_K": (576, 64), "q6_K": (1088, 64)}


def halves(blocks, at):
    return np.ascontiguousarray(blocks[..., at : at + 2]).view(np.float16).astype(np.float64)


def nibbles(bytes_):
    """Low nibbles, then high ones, of the last axis."""
    return np.concatenate([bytes_ & 15, bytes_ >> 4], -1).astype(np.float64)


def values(kind, blocks):
    """What blocks [..., bytes] stand for, by GGUF's description of them."""
    if kind == "q8_0":
        return halves(blocks, 0) * np.ascontiguousarray(blocks[..., 2:]).view(np.int8)
    if kind == "q4_0":
        return halves(blocks, 0) * (nibbles(blocks[..., 2:]) - 8)
    if kind == "q4_1":
        return halves(blocks, 0) * nibbles(blocks[..., 4:]) + halves(blocks, 2)
    if kind == "q4_K":
        s = blocks[..., 4:16].astype(np.int64)
        scale = np.concatenate([s[..., :4] & 63, s[..., 8:] & 15 | s[..., :4] >> 6 << 4], -1)
        low = np.concatenate([s[..., 4:8] & 63, s[..., 8:] >> 4 | s[..., 4:8] >> 6 << 4], -1)
        codes = nibbles(blocks[..., 16:].reshape(*blocks.shape[:-1], 4, 32)).reshape(*blocks.shape[:-1], 8, 32)
        result = (halves(blocks, 0) * scale)[..., None] * codes - (halves(blocks, 2) * low)[..., None]
        return result.reshape(*blocks.shape[:-1], 256)
    low = nibbles(blocks[..., :128].reshape(*blocks.shape[:-1], 2, 64)).reshape(*blocks.shape[:-1], 2, 4, 32)
    high = np.stack([blocks[..., 128:192].reshape(*blocks.shape[:-1], 2, 32) >> 2 * i & 3 for i in range(4)], -2)
    scale = np.ascontiguousarray(blocks[..., 192:208]).view(np.int8) * halves(blocks, 208)
    codes = (low + 16.0 * high - 32).reshape(*blocks.shape[:-1], 16, 16)
    return (scale[..., None] * codes).reshape(*blocks.shape[:-1], 256)


def random_blocks(random, kind, rows, width):
    """Random blocks of a file, and what they stand for: about 1 / sqrt(width) each."""
    elements, size = BLOCKS[kind]
    blocks = random.integers(0, 256, (rows, width // elements, size), dtype=np.uint8)
    unit = width**-0.5 * random.uniform(0.5, 1.5, (rows, width // elements))
    if kind in ("q4_K", "q6_K"):
        deviation = dict(q4_K=200.0, q6_K=1300.0)[kind]
    else:
        deviation = dict(q8_0=74.0, q4_0=4.6, q4_1=4.6)[kind]
    put = lambda at, x: blocks.__setitem__((..., slice(at, at + 2)), x.astype(np.float16)[..., None].view(np.uint8))
    put(208 if kind == "q6_K" else 0, unit / deviation)
    if kind == "q4_1":
        put(2, -unit * 1.6)
    if kind == "q4_K":
        put(2, unit / deviation * 7)
    return blocks, values(kind, blocks).reshape(rows, width)


class Quantised(Case):
    def kernel(self, name, kind):
        return emulate.Kernel("quantised_weights.cu", name, dict(FORMAT=FORMATS[kind]))

    def memory(self, kind, rows, width):
        units, tiles = -(-width // 64), -(-rows // 16)
        return aligned(tiles * (units * UNITS[kind][0] + units // 4 * UNITS[kind][1]), np.uint8, 0)

    def repack(self, kind, target, blocks, width, first=0, run=1 << 30, step=0):
        source = np.concatenate([np.zeros(1, np.uint8), blocks.ravel()])[1:]  # at an odd address
        self.kernel("repack_rows", kind)(
            2, 256, source, target, len(blocks), width, ctypes.c_longlong(blocks[0].size), first, run, step)

    def weight(self, kind, rows, width):
        """A weight as the products read it, and what it stands for."""
        blocks, expected = random_blocks(self.random, kind, rows, width)
        target = self.memory(kind, rows, width)
        self.repack(kind, target, blocks, width)
        return target, expected

    def expand(self, kind, weight, rows, width):
        out = aligned((rows, width), np.uint16)
        self.twice(
            lambda seed, lazy=False: self.kernel("expand_rows", kind)(2, 256, weight, out, rows, width, seed=seed), out)
        return out


class Weights(Quantised):
    @classmethod
    def setUpClass(cls):
        names = ["repack_rows", "expand_rows", "embed_quantised", "fill_quantised"]
        emulate.prepare([("quantised_weights.cu", n, dict(FORMAT=f)) for n in names for f in FORMATS.values()])

    def widths(self, kind):
        return (256, 768) if kind in ("q4_K", "q6_K") else (64, 96, 320)

    def test_files_blocks_come_back(self):
        for kind in FORMATS:
            for width in self.widths(kind):
                for rows in (16, 27):
                    weight, expected = self.weight(kind, rows, width)
                    found = wide(self.expand(kind, weight, rows, width))
                    # Each element is rounded once, to bf16.
                    self.assertLess((abs(found - expected) / np.maximum(abs(expected), 1e-6)).max(), 2**-7.99, kind)
                    self.assertLess(error(found, expected), 2.1e-3, kind)

    def test_rows_of_several_matrices(self):
        for kind in FORMATS:
            width = self.widths(kind)[0]
            (a, expected_a), (b, expected_b) = (random_blocks(self.random, kind, 24, width) for _ in range(2))
            one_after_the_other, by_turns = (self.memory(kind, 48, width) for _ in range(2))
            self.repack(kind, one_after_the_other, a, width)
            self.repack(kind, one_after_the_other, b, width, first=24)
            found = wide(self.expand(kind, one_after_the_other, 48, width))
            self.assertLess(error(found, np.concatenate([expected_a, expected_b])), 2.1e-3)
            for which, blocks in enumerate((a, b)):
                self.repack(kind, by_turns, blocks, width, first=8 * which, run=8, step=16)
            found = wide(self.expand(kind, by_turns, 48, width)).reshape(3, 2, 8, width)
            self.assertLess(error(found[:, 0].reshape(24, width), expected_a), 2.1e-3)
            self.assertLess(error(found[:, 1].reshape(24, width), expected_b), 2.1e-3)

    def test_embeddings(self):
        for kind in FORMATS:
            for width in self.widths(kind):
                table, expected = self.weight(kind, 21, width)
                tokens, norm = array([20, 3, 21], np.int32), array(self.normal(width))
                residual, y = aligned((3, width), np.float32), aligned((3, width), np.uint16)
                squares = aligned((3, 2), np.float32)
                kernel = self.kernel("embed_quantised", kind)
                self.twice(
                    lambda seed, lazy=False: kernel(
                        3, 256, tokens, table, 2.0, norm, residual, y, squares, 2, width, 21, seed=seed), residual, y, squares)
                rows = 2 * expected[[20, 3]]
                self.assertLess(error(residual[:2], rows), 3e-7, kind)
                self.assertLess(error(wide(y[:2]), rows * norm), 4e-3)
                self.assertLess(error(squares[:2, 0], (rows**2).sum(1)), 1e-6)
                self.assertTrue(np.isnan(residual[2]).all() and not squares[:2, 1].any())

    def test_random_weights(self):
        scale, minimum = (int(np.float16(x).view(np.uint16)) for x in (0.25, -1.5))
        words = dict(
            q8_0=(scale << 16 | scale, 0), q4_0=(scale << 16 | scale, 0), q4_1=(minimum << 16 | scale, 0),
            q4_K=(0x02010201, scale << 16 | scale), q6_K=(0x01010101, scale))
        deviations = dict(q8_0=74 * 0.25, q4_0=4.6 * 0.25, q4_1=4.6 * 0.25, q4_K=4.6 * 0.25, q6_K=74 * 0.25)
        for kind in FORMATS:
            weight = self.memory(kind, 64, 256)
            self.kernel("fill_quantised", kind)(
                3, 256, weight, ctypes.c_longlong(weight.size // 4), ctypes.c_ulonglong(3), *map(ctypes.c_uint, words[kind]))
            found = wide(self.expand(kind, weight, 64, 256))
            self.assertLess(abs(found.std() / deviations[kind] - 1), 0.03, kind)


# Width, rows of a block, tiles, warps, units staged, rows, outputs.
FEW = [
    (768, 8, 1, 4, 0, 1, 64), (1024, 8, 1, 8, 2, 5, 80), (768, 16, 2, 3, 4, 13, 96), (512, 8, 1, 2, 1, 3, 48),
    (768, 32, 1, 4, 1, 37, 32), (1280, 16, 2, 4, 2, 16, 80)]
# With a last unit that is not whole, of blocks of 32 elements.
FEW_32 = [(160, 8, 1, 2, 0, 2, 48), (96, 16, 1, 2, 1, 11, 32)]
# Width, columns, warpgroups, stages, rows, outputs.
TALL = [(768, 16, 1, 4, 40, 48), (256, 64, 1, 2, 70, 192), (512, 128, 2, 2, 100, 256), (256, 96, 1, 4, 33, 192)]
TALL_32 = [(160, 32, 1, 2, 64, 96)]
KINDS = ((1, STORE), (0, ADD), (1, SWIGLU), (1, CHOOSE))


class Products(Quantised):
    @classmethod
    def cases(cls):
        """Each format with some shapes, few and many rows, and each of those with some epilogues."""
        for number, kind in enumerate(FORMATS):
            shapes = [FEW[number], FEW[5 - number], TALL[number % 4]]
            if kind not in ("q4_K", "q6_K"):
                shapes += [(FEW_32 + TALL_32)[number]]
            for turn, shape in enumerate(shapes):
                yield kind, shape, [KINDS[(number + turn) % 4]] if turn else [KINDS[number % 4], KINDS[(number + 2) % 4]]

    @staticmethod
    def is_few(shape):
        return shape in FEW or shape in FEW_32

    @classmethod
    def setUpClass(cls):
        kernels = []
        for kind, shape, kinds in cls.cases():
            for norm, epilogue in kinds:
                kernels.append((*cls.names(shape), cls.definitions(kind, shape, norm, epilogue)))
        names = ["repack_rows"]
        emulate.prepare(kernels + [("quantised_weights.cu", n, dict(FORMAT=f)) for n in names for f in FORMATS.values()])

    @classmethod
    def names(cls, shape):
        return ("row_products.cu", "row_product") if cls.is_few(shape) else ("tall_products.cu", "tall_product")

    @classmethod
    def definitions(cls, kind, shape, norm, epilogue):
        common = dict(WIDTH=shape[0], NORM=norm, EPILOGUE=epilogue, PARTS=PARTS, FORMAT=FORMATS[kind])
        if cls.is_few(shape):
            return common | dict(ROWS=shape[1], TILES=shape[2], WARPS=shape[3], ROUND=shape[4], REPEATS=1)
        return common | dict(COLUMNS=shape[1], GROUPS=shape[2], STAGES=shape[3])

    def launch(self, kind, shape, norm, epilogue, outputs, blocks, **arguments):
        rows, width = shape[-2], shape[0]
        p = RowProduct(
            rows=rows, outputs=outputs, stride=outputs, epsilon=1e-5, **{k: address(v) for k, v in arguments.items()})
        if self.is_few(shape):
            _, height, tiles, warps, staged = shape[:5]
            own = -(-(-(-width // 64)) // warps)
            buffers = 2 if 0 < staged < own else 1
            shared = warps * buffers * staged * height * 128 + warps * tiles * height // 8 * 512
            threads, maps = 32 * warps, []
        else:
            _, columns, groups, stages = shape[:4]
            height, threads = 64 * groups, 128 * groups + 32 + 128
            shared = stages * (height + columns) * 128
            x = emulate.tensor_map(p.x, (width, rows, 1), (width * 2, width * 2 * rows), (64, height, 1))
            maps = [x, x]
        kernel = emulate.Kernel(*self.names(shape), self.definitions(kind, shape, norm, epilogue), shared)
        grid = (blocks, -(-rows // height), 1)
        return lambda seed, lazy=False: kernel(grid, threads, *maps, p, seed=seed, lazy=lazy)

    def test_products(self):
        for kind, shape, kinds in self.cases():
            for norm, epilogue in kinds:
                with self.subTest(kind=kind, shape=shape, epilogue=epilogue):
                    self.product(kind, shape, norm, epilogue)

    def product(self, kind, shape, norm, epilogue):
        width, rows = shape[0], shape[-2]
        few = self.is_few(shape)
        outputs = shape[-1] * 3 - 5 if epilogue == CHOOSE else shape[-1] - 8 if epilogue != SWIGLU else shape[-1]
        columns = 16 * shape[2] if few else shape[1]
        blocks = -(-outputs // columns)
        if few or epilogue == CHOOSE:
            blocks = max(1, blocks // 2)
        weight, values_ = self.weight(kind, outputs, width)
        x = to_bf16(self.normal(rows, width) + 0.3)
        product = wide(x) @ values_.T
        # Expanded weights are rounded to bf16; the others enter as they are.
        exact, rounded = (3e-6, 4e-3) if few else (2e-3, 5e-3)
        arguments = dict(x=x, weight=weight)
        if norm:
            squares = array(self.random.uniform(0.5, 2, (rows, PARTS)))
            product = product / np.sqrt(squares.astype(np.float64).sum(1, keepdims=True) / width + 1e-5)
            arguments["squares"] = squares
        if epilogue == STORE:
            bias, out = array(self.normal(outputs)), aligned((rows, outputs), np.uint16)
            self.twice(self.launch(kind, shape, norm, epilogue, outputs, blocks, bias=bias, out=out, **arguments), out)
            self.assertLess(error(wide(out), product + bias), rounded)
        elif epilogue == SWIGLU:
            out = aligned((rows, outputs // 2), np.uint16)
            self.twice(self.launch(kind, shape, norm, epilogue, outputs, blocks, out=out, **arguments), out)
            turns = product.reshape(rows, -1, 2, 8)
            expected = (turns[:, :, 0] / (1 + np.exp(-turns[:, :, 0])) * turns[:, :, 1]).reshape(rows, -1)
            self.assertLess(error(wide(out), expected), rounded * 1.5)
        elif epilogue == ADD:
            part = 16 if few else columns
            parts = -(-outputs // part)
            sums, next_norm = array(self.normal(rows, outputs)), array(self.normal(outputs))
            out, squares = aligned((rows, outputs), np.uint16), aligned((rows, parts), np.float32)
            expected = sums.astype(np.float64) + product
            self.twice(
                self.launch(
                    kind, shape, norm, epilogue, outputs, blocks, out=out, sums=sums, next_weight=next_norm,
                    next_squares=squares, **arguments), sums, out, squares)
            self.assertLess(error(sums, expected), exact)
            self.assertLess(error(wide(out), expected * next_norm), rounded)
            padded = np.zeros((rows, parts * part))
            padded[:, :outputs] = expected
            self.assertLess(error(squares, (padded**2).reshape(rows, parts, part).sum(2)), 2 * exact + 1e-5)
        else:
            logits, best = aligned((rows, outputs), np.float32), aligned((rows, blocks), np.float32)
            index = aligned((rows, blocks), np.int32)
            temperatures, seeds = array(np.zeros(rows)), array(np.zeros(rows), np.uint64)
            self.twice(
                self.launch(
                    kind, shape, norm, epilogue, outputs, blocks, sums=logits, temperatures=temperatures, seeds=seeds,
                    positions=array(np.zeros(rows), np.int32), best=best, best_index=index, **arguments), logits, best, index)
            self.assertLess(error(logits, product), exact)
            for row in range(rows):
                chosen = index[row][np.lexsort((index[row], -best[row]))[0]]
                self.assertEqual(chosen, logits[row].argmax())


if __name__ == "__main__":
    unittest.main()
