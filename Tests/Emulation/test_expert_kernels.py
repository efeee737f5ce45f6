"""The kernels of mixtures of experts, run on the CPU, against float64: router, choice, grouped products, and their sum."""

import ctypes
import sys
import unittest
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

import emulate
from emulate import aligned, to_bf16
from test_decoder_kernels import PARTS, STORE, SWIGLU, RowProduct, address, array, error, wide
from test_quantised_kernels import FORMATS, Quantised

SOFTMAX, LOGISTIC = 0, 1


class Routing(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in "logits correction lengths picks weights positions tokens chunks".split()]
    _fields_ += [
        (name, ctypes.c_int) for name in
        "rows experts count groups kept best height chunk_count is_logistic is_normalised excludes".split()]
    _fields_ += [("scale", ctypes.c_float)]


def choose(logits, correction, count, scoring, groups, kept, best, excludes, normalised, scale):
    """What a row's experts and their weights are."""
    affinity = 1 / (1 + np.exp(-logits)) if scoring == LOGISTIC else np.exp(logits - logits.max())
    if scoring == SOFTMAX:
        affinity = affinity / affinity.sum()
    candidates = affinity + (0 if correction is None else correction)
    if groups > 1:
        members = candidates.reshape(groups, -1)
        scores = np.sort(members, 1)[:, -best:].sum(1)
        out = np.argsort(-scores, kind="stable")[kept:]
        members[out] = -np.inf if excludes else 0
    picks = np.argsort(-candidates, kind="stable")[:count]
    weights = affinity[picks]
    return picks, weights * scale / (weights.sum() + 1e-20 if normalised else 1)


# Rows, experts, picks, scoring, groups, kept, best, excludes, correction, normalised, scale, height.
ROUTES = [
    (1, 8, 2, SOFTMAX, 1, 1, 1, 0, False, False, 1.0, 8), (37, 64, 6, SOFTMAX, 1, 1, 1, 0, False, True, 2.5, 8),
    (20, 160, 6, SOFTMAX, 8, 3, 1, 0, False, False, 16.0, 16), (75, 256, 8, LOGISTIC, 8, 4, 2, 1, True, True, 2.5, 64),
    (3, 5, 5, LOGISTIC, 1, 1, 1, 0, True, False, 1.0, 8)]


class Routes(Quantised):
    @classmethod
    def setUpClass(cls):
        names = ["choose_experts", "group_pairs", "gather_pairs", "combine_experts"]
        cls.kernels = emulate.kernels("experts.cu", names)

    def test_logits(self):
        for rows_of_block, rows, experts, width in ((1, 1, 8, 64), (2, 2, 21, 200), (8, 13, 64, 1028)):
            residual, router = array(self.normal(rows, width) * 3), array(self.normal(experts, width))
            logits = aligned((rows, experts), np.float32)
            kernel = emulate.Kernel("experts.cu", "router_logits", dict(ROWS=rows_of_block))
            grid = (-(-experts // 8), -(-rows // rows_of_block), 1)
            self.twice(
                lambda seed, lazy=False: kernel(grid, 256, residual, router, logits, rows, experts, width, 1e-5, seed=seed), logits)
            x = residual.astype(np.float64)
            expected = x / np.sqrt((x**2).mean(1, keepdims=True) + 1e-5) @ router.astype(np.float64).T
            self.assertLess(error(logits, expected), 1e-6)

    def test_choice_and_order(self):
        for route in ROUTES:
            for together in (True, False):
                with self.subTest(route=route, together=together):
                    self.route(route, together)

    def route(self, route, together):
        rows, experts, count, scoring, groups, kept, best, excludes, corrected, normalised, scale, height = route
        logits = array(self.normal(rows, experts) * 2)
        correction = array(self.random.uniform(-0.5, 0.5, experts)) if corrected else None
        lengths = array(np.where(np.arange(rows) % 5 == 3, 0, 7), np.int32) if together else None
        bound = min(rows * count, experts + rows * count // height)
        picks, weights = aligned((rows, count), np.int32), aligned((rows, count), np.float32)
        positions, tokens = aligned((rows, count), np.int32, -1), aligned(rows * count, np.int32, -1)
        chunks = aligned((bound, 4), np.int32)
        r = Routing(
            *map(address, (logits, correction, lengths, picks, weights, positions, tokens, chunks)), rows, experts, count, groups,
            kept, best, height, bound, scoring, normalised, excludes, scale)
        if not together:
            self.kernels["choose_experts"](-(-rows // 8), 256, r)
        self.kernels["group_pairs"](1, 1024, r, int(together))
        visits = np.ones(rows, bool) if lengths is None else lengths > 0
        for row in range(rows):
            arguments = (correction, count, scoring, groups, kept, best, excludes, normalised, scale)
            expected, shares = choose(logits[row].astype(np.float64), *arguments)
            self.assertEqual(picks[row].tolist(), expected.tolist())
            self.assertLess(error(weights[row], shares), 1e-5)
        used = positions[visits].ravel()
        self.assertEqual(sorted(used.tolist()), list(range(visits.sum() * count)))
        self.assertTrue((positions[~visits] == -1).all())
        expert_of = np.full(visits.sum() * count, -1)
        expert_of[used] = picks[visits].ravel()
        self.assertTrue((np.diff(expert_of) >= 0).all(), "pairs in the order of their experts")
        self.assertEqual(tokens[positions[visits]].tolist(), [[row] * count for row in np.nonzero(visits)[0].tolist()])
        covered = []
        for expert, first, size, _ in chunks:
            self.assertTrue(0 <= size <= height)
            self.assertTrue((expert_of[first : first + size] == expert).all())
            covered += range(first, first + size)
        self.assertEqual(covered, list(range(len(expert_of))))

    def test_whatever_the_logits_indices_stay_inside(self):
        logits = array(self.normal(4, 16))
        logits[0], logits[1, 3], logits[2] = np.nan, np.nan, np.inf
        logits[3] = 1
        picks, weights = aligned((4, 4), np.int32), aligned((4, 4), np.float32)
        r = Routing(*map(address, (logits, None, None, picks, weights)), None, None, None, 4, 16, 4, 4, 2, 1, 8, 8, SOFTMAX, 0, 0, 1)
        self.kernels["choose_experts"](1, 256, r)
        self.assertTrue(((0 <= picks) & (picks < 16)).all())
        self.assertEqual(picks[3].tolist(), [0, 1, 2, 3], "of equal ones the first")

    def test_pairs_there_and_back(self):
        x, tokens = to_bf16(self.normal(5, 48)), array([4, 0, 0, 2, 3, 1], np.int32)
        gathered = aligned((6, 48), np.uint16)
        self.kernels["gather_pairs"](2, 256, x, tokens, gathered, 6, 48)
        self.assertTrue(np.array_equal(gathered, x[tokens]))
        for width in (48, 1100):
            outputs, residual, norm = to_bf16(self.normal(9, width)), array(self.normal(4, width)), array(self.normal(width))
            weights, lengths = array(self.random.uniform(0, 1, (4, 2))), array([1, 0, 3, 9], np.int32)
            positions = array([[8, 0], [99999, 99999], [3, 3], [1, 7]], np.int32)
            y, squares = aligned((4, width), np.uint16), aligned((4, 3), np.float32)
            expected = residual.astype(np.float64)
            for row in (0, 2, 3):
                expected[row] += weights[row].astype(np.float64) @ wide(outputs[positions[row]])
            self.twice(
                lambda seed, lazy=False: self.kernels["combine_experts"](
                    4, 256, residual, outputs, weights, positions, lengths, 2, norm, y, squares, 3, width, seed=seed), residual, y,
                squares)
            self.assertLess(error(residual, expected), 1e-6)
            self.assertLess(error(wide(y), expected * norm), 4e-3)
            self.assertLess(error(squares[:, 0], (expected**2).sum(1)), 1e-6)
            self.assertFalse(squares[:, 1:].any())


# Format, width, outputs; of few rows: rows of a chunk, tiles, warps, units staged; of many: columns, stages.
FEW = [
    (None, 136, 48, (8, 1, 2, 0)), (None, 320, 80, (16, 1, 4, 2)), ("q8_0", 160, 48, (8, 1, 3, 1)), ("q4_0", 320, 64, (16, 1, 2, 3)),
    ("q4_K", 256, 32, (8, 1, 4, 1))]
TALL = [(None, 136, 96, (64, 3)), ("q4_1", 320, 144, (64, 4)), ("q6_K", 256, 64, (32, 4))]


class Products(Quantised):
    @classmethod
    def setUpClass(cls):
        kernels = [(*cls.names(shape), cls.definitions(shape, norm, epilogue)) for shape, norm, epilogue in cls.cases()]
        repacks = [("quantised_weights.cu", "repack_rows", dict(FORMAT=FORMATS[k])) for k in {s[0] for s in FEW + TALL} if k]
        emulate.prepare(kernels + repacks)

    @staticmethod
    def cases():
        for shape in FEW:
            yield from ((shape, 1, SWIGLU), (shape, 0, STORE))
        for shape in TALL:
            yield from ((shape, 0, SWIGLU), (shape, 0, STORE))

    @staticmethod
    def names(shape):
        return ("row_products.cu", "row_product") if shape in FEW else ("tall_products.cu", "tall_product")

    @staticmethod
    def definitions(shape, norm, epilogue):
        result = dict(WIDTH=shape[1], NORM=norm, EPILOGUE=epilogue, PARTS=PARTS, FORMAT=FORMATS.get(shape[0], 0), EXPERTS=1)
        if shape not in FEW:
            return result | dict(COLUMNS=shape[3][0], GROUPS=1, STAGES=shape[3][1])
        result |= dict(zip(("ROWS", "TILES", "WARPS", "ROUND"), shape[3]))
        return result | (dict(REPEATS=1) if shape[0] else {})

    def test_products(self):
        for case in self.cases():
            with self.subTest(case=case):
                self.product(*case)

    def product(self, shape, norm, epilogue):
        kind, width, outputs, settings = shape
        few = shape in FEW
        height = settings[0] if few else 64
        experts, sizes = 4, [3, 0, 2 * height + 5, height]
        pairs, rows = sum(sizes), 29
        if kind:
            parts = [self.weight(kind, outputs, width) for _ in range(experts)]
            weight, values = np.concatenate([p[0] for p in parts]), np.stack([p[1] for p in parts])
            held = aligned(weight.shape, np.uint8, weight)
        else:
            held = to_bf16(self.normal(experts, outputs, width) / width**0.5)
            values = wide(held)
        # Few rows come from where the tokens are, many in the order of the pairs.
        x = to_bf16(self.normal(rows if few and epilogue == SWIGLU else pairs, width))
        gathers = few and epilogue == SWIGLU
        tokens = array(self.random.integers(0, rows, pairs), np.int32) if gathers else None
        sources = tokens if gathers else np.arange(pairs)
        chunks, first = [], 0
        for expert, size in enumerate(sizes):
            chunks += [(expert, first + i, min(height, size - i), 0) for i in range(0, size, height)]
            first += size
        chunks += [(0, 0, 0, 0)] * 2
        table = array(chunks, np.int32)
        squares = array(self.random.uniform(0.5, 2, (len(x), PARTS)))
        factors = 1 / np.sqrt(squares.astype(np.float64).sum(1, keepdims=True) / width + 1e-5) if norm else np.ones((len(x), 1))
        expert_of = np.repeat(np.arange(experts), sizes)
        product = np.einsum("pk,pnk->pn", (wide(x) * factors)[sources], values[expert_of])
        stride = outputs if epilogue == STORE else outputs // 2
        out = aligned((pairs, stride), np.uint16)
        p = RowProduct(
            x=address(x), weight=address(held), squares=address(squares), out=address(out), chunks=address(table),
            tokens=address(tokens), expert_bytes=held.nbytes // experts, rows=pairs, outputs=outputs, stride=outputs, epsilon=1e-5)
        if few:
            _, tiles, warps, staged = settings
            own = -(-(-(-width // 64)) // warps)
            buffers = 2 if kind and 0 < staged < own else 1
            x_bytes, sums = warps * buffers * staged * height * 128, warps * tiles * height // 8 * 512
            shared, threads, maps = x_bytes + sums, 32 * warps, []
            blocks = 1 if kind else -(-outputs // (16 * tiles))
        else:
            columns, stages = settings
            shared, threads = stages * (64 + columns) * 128, 160 + (128 if kind else 0)
            blocks = -(-outputs // columns)
            maps = [emulate.tensor_map(p.x, (width, len(x), 1), (width * 2, width * 2 * len(x)), (64, 64, 1))]
            maps += maps if kind else [
                emulate.tensor_map(p.weight, (width, outputs, experts), (width * 2, width * 2 * outputs), (64, columns, 1))]
        kernel = emulate.Kernel(*self.names(shape), self.definitions(shape, norm, epilogue), shared)
        self.twice(
            lambda seed, lazy=False: kernel((blocks, len(chunks), 1), threads, *maps, p, seed=seed, lazy=lazy), out)
        if epilogue == SWIGLU:
            turns = product.reshape(pairs, -1, 2, 8)
            product = (turns[:, :, 0] / (1 + np.exp(-turns[:, :, 0])) * turns[:, :, 1]).reshape(pairs, -1)
        self.assertLess(error(wide(out), product), 7e-3)


class Layer(Quantised):
    """A layer's launches one after the other, as GPUDecoder queues them, in a step and in a prompt."""

    ROWS, EXPERTS, COUNT, WIDTH, INNER = 21, 6, 2, 128, 64

    @classmethod
    def setUpClass(cls):
        emulate.prepare([(f"{n}s.cu", n, d) for n, d in cls.kernels().values()])

    @classmethod
    def kernels(cls):
        few = dict(PARTS=8, FORMAT=FORMATS["q8_0"], EXPERTS=1, ROWS=8, TILES=1, WARPS=2, ROUND=0, REPEATS=1)
        tall = dict(PARTS=1, FORMAT=FORMATS["q8_0"], EXPERTS=1, COLUMNS=128, GROUPS=1, STAGES=2)
        return dict(
            step_up=("row_product", few | dict(WIDTH=cls.WIDTH, NORM=1, EPILOGUE=SWIGLU)),
            step_down=("row_product", few | dict(WIDTH=cls.INNER, WARPS=1, NORM=0, EPILOGUE=STORE)),
            prompt_up=("tall_product", tall | dict(WIDTH=cls.WIDTH, NORM=0, EPILOGUE=SWIGLU)),
            prompt_down=("tall_product", tall | dict(WIDTH=cls.INNER, NORM=0, EPILOGUE=STORE)))

    def test_steps_and_prompts(self):
        for is_step in (True, False):
            self.layer(is_step)

    def layer(self, is_step):
        rows, experts, count, width, inner = self.ROWS, self.EXPERTS, self.COUNT, self.WIDTH, self.INNER
        tools = emulate.kernels("experts.cu", ["router_logits", "group_pairs", "choose_experts", "gather_pairs", "combine_experts"])
        residual, norm, next_norm = array(self.normal(rows, width)), array(1 + self.normal(width) / 9), array(self.normal(width))
        router = array(self.normal(experts, width) * norm)
        gate_up = [self.weight("q8_0", 2 * inner, width) for _ in range(experts)]
        down = [self.weight("q8_0", width, inner) for _ in range(experts)]
        stacks = [aligned(sum(w.size for w, _ in s), np.uint8, np.concatenate([w for w, _ in s])) for s in (gate_up, down)]
        x = residual.astype(np.float64)
        inverse = 1 / np.sqrt((x**2).mean(1, keepdims=True) + 1e-5)
        # What the product before the layer leaves, or the norm of prompts.
        normed, squares = to_bf16(x * norm * (1 if is_step else inverse)), array(np.full((rows, 8), 0.0))
        squares[:, 3] = (x**2).sum(1)

        height = 8 if is_step else 64
        pairs, bound = rows * count, min(rows * count, experts + rows * count // height)
        logits, picks = aligned((rows, experts), np.float32), aligned((rows, count), np.int32)
        weights, positions = aligned((rows, count), np.float32), aligned((rows, count), np.int32)
        tokens, chunks = aligned(pairs, np.int32, 0), aligned((bound, 4), np.int32)
        hidden, outputs = aligned((pairs, inner), np.uint16), aligned((pairs, width), np.uint16)
        tools["router_logits"]((1, -(-rows // 8), 1), 256, residual, router, logits, rows, experts, width, 1e-5)
        r = Routing(
            *map(address, (logits, None, None, picks, weights, positions, tokens, chunks)), rows, experts, count, 1, 1, 1, height,
            bound, SOFTMAX, 1, 0, 1.5)
        if not is_step:
            tools["choose_experts"](-(-rows // 8), 256, r)
        tools["group_pairs"](1, 1024, r, int(is_step))
        if is_step:
            source, places = normed, tokens
        else:
            source, places = aligned((pairs, width), np.uint16), None
            tools["gather_pairs"](2, 256, normed, tokens, source, pairs, width)
        for part, into, of, weight, n, k in (
            ("up", hidden, source, stacks[0], 2 * inner, width), ("down", outputs, hidden, stacks[1], width, inner)):
            name, definitions = self.kernels()[f"{'step' if is_step else 'prompt'}_{part}"]
            p = RowProduct(
                x=address(of), weight=address(weight), squares=address(squares), out=address(into), chunks=address(chunks),
                tokens=address(places if part == "up" else None), expert_bytes=weight.nbytes // experts, rows=pairs, outputs=n,
                stride=n, epsilon=1e-5)
            if is_step:
                shared, threads, maps = definitions["WARPS"] * 512, 32 * definitions["WARPS"], []
            else:
                shared, threads = 2 * (64 + 128) * 128, 288
                maps = [emulate.tensor_map(p.x, (k, len(of), 1), (k * 2, k * 2 * len(of)), (64, 64, 1))] * 2
            emulate.Kernel(f"{name}s.cu", name, definitions, shared)((1, bound, 1), threads, *maps, p)
        y, sums = aligned((rows, width), np.uint16), aligned((rows, 8), np.float32)
        tools["combine_experts"](
            rows, 256, residual, outputs, weights, positions, ctypes.c_void_p(None), count, next_norm, y, sums, 8, width)

        scores = x * inverse @ router.astype(np.float64).T
        expected = x.copy()
        for row in range(rows):
            chosen, shares = choose(scores[row], None, count, SOFTMAX, 1, 1, 1, 0, True, 1.5)
            for expert, share in zip(chosen, shares):
                turns = (gate_up[expert][1] @ (x[row] * inverse[row] * norm)).reshape(-1, 2, 8)
                between = (turns[:, 0] / (1 + np.exp(-turns[:, 0])) * turns[:, 1]).ravel()
                expected[row] += share * (down[expert][1] @ between)
        self.assertLess(error(residual - x, expected - x), 8e-3)
        self.assertLess(error(wide(y), expected * next_norm), 8e-3)
        self.assertLess(error(sums.sum(1), (expected**2).sum(1)), 8e-3)


if __name__ == "__main__":
    unittest.main()
