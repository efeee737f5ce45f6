"""The kernels of decoder steps, run on the CPU, against float64: products of few rows, attention over pages, choice of tokens."""

import concurrent.futures
import ctypes
import sys
import unittest
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

import emulate
from emulate import aligned, from_bf16, to_bf16

NONE = None
STORE, ADD, SWIGLU, CHOOSE = range(4)


class RowProduct(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_void_p)
        for name in (
            "x weight bias squares out sums next_weight next_squares temperatures seeds positions best best_index chunks "
            "tokens").split()]
    _fields_ += [("expert_bytes", ctypes.c_longlong), ("rows", ctypes.c_int), ("outputs", ctypes.c_int)]
    _fields_ += [("epsilon", ctypes.c_float), ("stride", ctypes.c_int), ("first_token", ctypes.c_int), ("unused", ctypes.c_int)]


class GroupedStep(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_void_p)
        for name in "qkv query_norm key_norm cosine sine cache page_table lengths output".split()]
    _fields_ += [("page_elements", ctypes.c_longlong)]
    _fields_ += [(name, ctypes.c_int) for name in ("page_stride", "groups", "window")]
    _fields_ += [("epsilon", ctypes.c_float), ("scale_log2", ctypes.c_float)]


class GroupedAppend(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_void_p)
        for name in "qkv bias query_norm key_norm cosine sine query cache page_table sequences positions lengths".split()]
    _fields_ += [("page_elements", ctypes.c_longlong)]
    _fields_ += [(name, ctypes.c_int) for name in ("page_stride", "tokens", "query_heads", "groups")]
    _fields_ += [("epsilon", ctypes.c_float)]


def array(x, dtype=np.float32):
    x = np.asarray(x)
    return aligned(x.shape, dtype, x.astype(dtype))


def address(x):
    return None if x is None else x.ctypes.data


def error(found, expected):
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-300))


def wide(bits):
    return from_bf16(bits).astype(np.float64)


class Case(unittest.TestCase):
    def setUp(self):
        self.random = np.random.default_rng(7)

    def normal(self, *shape):
        return self.random.standard_normal(shape)

    def twice(self, launch, *outputs):
        """Launches with threads in two orders and copies early and late, which must give the same bits."""
        before = [o.copy() for o in outputs]
        launch(seed=0)
        first = [o.copy() for o in outputs]
        for output, old in zip(outputs, before):
            output[...] = old
        launch(seed=5, lazy=True)
        for output, old in zip(outputs, first):
            self.assertTrue(np.array_equal(output.view(np.uint8), old.view(np.uint8)), "a race")


# Width, rows of a block, tiles, warps, units staged, rows, outputs.
FEW = [
    (64, 8, 1, 1, 0, 1, 16), (576, 8, 1, 9, 0, 5, 64), (200, 8, 2, 3, 0, 8, 48), (576, 32, 2, 4, 3, 32, 80),
    (576, 16, 1, 4, 1, 19, 32), (136, 64, 2, 2, 1, 70, 64), (1536, 16, 1, 12, 0, 16, 32), (776, 8, 4, 3, 2, 3, 144)]
# Width, columns, warpgroups, stages, rows, outputs.
TALL = [
    (64, 16, 1, 2, 1, 16), (576, 32, 1, 9, 64, 96), (200, 48, 1, 3, 70, 96), (576, 96, 2, 4, 150, 192), (136, 128, 2, 2, 40, 128),
    (320, 16, 1, 2, 65, 64)]
PRODUCTS = FEW + TALL
PARTS = 37
KINDS = ((1, STORE), (0, STORE), (0, ADD), (1, SWIGLU), (1, CHOOSE))


class Products(Case):
    @classmethod
    def setUpClass(cls):
        emulate.prepare([(*cls.names(shape), cls.definitions(shape, *kind)) for shape in PRODUCTS for kind in KINDS])

    @staticmethod
    def names(shape):
        return ("row_products.cu", "row_product") if shape in FEW else ("tall_products.cu", "tall_product")

    @staticmethod
    def definitions(shape, norm, epilogue):
        common = dict(WIDTH=shape[0], NORM=norm, EPILOGUE=epilogue, PARTS=PARTS)
        if shape in FEW:
            return common | dict(ROWS=shape[1], TILES=shape[2], WARPS=shape[3], ROUND=shape[4])
        return common | dict(COLUMNS=shape[1], GROUPS=shape[2], STAGES=shape[3])

    @staticmethod
    def columns(shape):
        """Outputs of a block, and those of which it leaves a part of the squares."""
        return (16 * shape[2], 16) if shape in FEW else (shape[1], shape[1])

    def launch(self, shape, norm, epilogue, outputs, blocks=None, **arguments):
        rows, columns = shape[-2], self.columns(shape)[0]
        first = arguments.pop("first_token", 0)
        p = RowProduct(
            rows=rows, outputs=outputs, stride=outputs, epsilon=1e-5, first_token=first,
            **{k: address(v) for k, v in arguments.items()})
        blocks = blocks or -(-outputs // columns)
        if shape in FEW:
            _, rows_of_block, tiles, warps, staged = shape[:5]
            stage, sums = warps * staged * rows_of_block * 128, warps * tiles * rows_of_block // 8 * 512
            shared, threads, maps = stage + sums if epilogue == CHOOSE else max(stage, sums), 32 * warps, []
        else:
            width, _, groups, stages = shape[:4]
            rows_of_block, threads = 64 * groups, 128 * groups + 32
            shared = stages * (rows_of_block + columns) * 128
            maps = [
                emulate.tensor_map(p.x, (width, rows, 1), (width * 2, width * 2 * rows), (64, rows_of_block, 1)),
                emulate.tensor_map(p.weight, (width, outputs, 1), (width * 2, width * 2 * outputs), (64, columns, 1))]
        kernel = emulate.Kernel(*self.names(shape), self.definitions(shape, norm, epilogue), shared)
        grid = (blocks, -(-rows // rows_of_block), 1)
        # The kernel reads the arguments' memory, so they must live as long.
        return lambda seed, lazy=False, kept=arguments: kernel(grid, threads, *maps, p, seed=seed, lazy=lazy)

    @staticmethod
    def odd(shape):
        """Fewer outputs than blocks have: any for few rows, elsewhere a multiple of 8."""
        return shape[-1] - (5 if shape in FEW else 8)

    def operands(self, shape, outputs=None):
        width, rows, n = shape[0], shape[-2], outputs or shape[-1]
        x, weight = to_bf16(self.normal(rows, width)), to_bf16(self.normal(n, width) / width**0.5)
        return x, weight, wide(x) @ wide(weight).T

    def squares(self, rows, width):
        """Parts of sums of squares, and the factors that follow."""
        squares = array(self.random.uniform(0.5, 2, (rows, PARTS)))
        return squares, 1 / np.sqrt(squares.astype(np.float64).sum(1, keepdims=True) / width + 1e-5)

    def test_products_with_norm_and_bias(self):
        for shape in PRODUCTS:
            for outputs in (shape[-1], self.odd(shape)):
                x, weight, product = self.operands(shape, outputs)
                squares, inverse = self.squares(shape[-2], shape[0])
                for bias in (None, array(self.normal(outputs))):
                    out = aligned((shape[-2], outputs), np.uint16)
                    self.twice(
                        self.launch(shape, 1, STORE, outputs, x=x, weight=weight, bias=bias, squares=squares, out=out), out)
                    expected = product * inverse + (0 if bias is None else bias)
                    self.assertLess(error(wide(out), expected), 4e-3, shape)

    def test_products_without_norm(self):
        for shape in PRODUCTS:
            x, weight, product = self.operands(shape)
            bias, out = array(self.normal(shape[-1])), aligned((shape[-2], shape[-1]), np.uint16)
            self.twice(self.launch(shape, 0, STORE, shape[-1], x=x, weight=weight, bias=bias, out=out), out)
            self.assertLess(error(wide(out), product + bias), 4e-3, shape)

    def test_sums_into_the_residual_stream(self):
        for shape in PRODUCTS:
            for outputs in (shape[-1], self.odd(shape)):
                x, weight, product = self.operands(shape, outputs)
                rows, columns = shape[-2], self.columns(shape)[1]
                parts = -(-outputs // columns)
                sums, norm = array(self.normal(rows, outputs)), array(self.normal(outputs))
                bias = array(self.normal(outputs))
                out, squares = aligned((rows, outputs), np.uint16), aligned((rows, parts), np.float32)
                expected = sums.astype(np.float64) + product + bias
                self.twice(
                    self.launch(
                        shape, 0, ADD, outputs, x=x, weight=weight, bias=bias, out=out, sums=sums, next_weight=norm,
                        next_squares=squares), sums, out, squares)
                self.assertLess(error(sums, expected), 2e-6, shape)
                self.assertLess(error(wide(out), expected * norm), 4e-3)
                padded = np.zeros((rows, parts * columns))
                padded[:, :outputs] = expected
                self.assertLess(error(squares, (padded**2).reshape(rows, parts, columns).sum(2)), 1e-5)

    def test_swiglu_of_rows_by_turns(self):
        for shape in PRODUCTS:
            x, weight, product = self.operands(shape)
            squares, inverse = self.squares(shape[-2], shape[0])
            out = aligned((shape[-2], shape[-1] // 2), np.uint16)
            self.twice(
                self.launch(shape, 1, SWIGLU, shape[-1], x=x, weight=weight, squares=squares, out=out), out)
            turns = (product * inverse).reshape(shape[-2], -1, 2, 8)
            expected = (turns[:, :, 0] / (1 + np.exp(-turns[:, :, 0])) * turns[:, :, 1]).reshape(shape[-2], -1)
            self.assertLess(error(wide(out), expected), 5e-3, shape)

    def test_the_largest_and_samples(self):
        for shape in PRODUCTS:
            rows, outputs = shape[-2], shape[-1] * 3 - 5
            x, weight, product = self.operands(shape, outputs)
            squares, inverse = self.squares(rows, shape[0])
            temperatures, seeds = array(np.arange(rows) % 3 * 0.5), array(np.arange(rows) + 9, np.uint64)
            positions = array(np.arange(rows) + 4, np.int32)
            for blocks in (1, 2):
                blocks = min(blocks, -(-outputs // self.columns(shape)[0]))
                logits, best = aligned((rows, outputs), np.float32), aligned((rows, blocks), np.float32)
                index = aligned((rows, blocks), np.int32)
                self.twice(
                    self.launch(
                        shape, 1, CHOOSE, outputs, blocks, x=x, weight=weight, squares=squares, sums=logits,
                        temperatures=temperatures, seeds=seeds, positions=positions, best=best, best_index=index), logits,
                    best, index)
                self.assertLess(error(logits, product * inverse), 2e-6, shape)
                for row in range(rows):
                    scores = logits[row].astype(np.float64)
                    if temperatures[row] > 0:
                        scores = scores / temperatures[row] + gumbel(int(seeds[row]), int(positions[row]), outputs)
                    chosen = index[row][np.lexsort((index[row], -best[row]))[0]]
                    self.assertLess(scores.max() - scores[chosen], 1e-4)

    def test_a_rank_draws_with_the_noise_of_its_tokens(self):
        """Candidates of a part of the vocabulary are those that the whole has there."""
        for shape in (FEW[1], TALL[0]):
            rows, outputs, first = shape[-2], 48, 16
            x, weight, product = self.operands(shape, outputs)
            squares, inverse = self.squares(rows, shape[0])
            temperatures, seeds = array(np.full(rows, 0.7)), array(np.arange(rows) + 9, np.uint64)
            positions, columns = array(np.arange(rows) + 4, np.int32), self.columns(shape)[0]
            blocks = -(-(outputs - first) // columns)
            best, index = aligned((rows, blocks), np.float32), aligned((rows, blocks), np.int32)
            self.launch(
                shape, 1, CHOOSE, outputs - first, blocks, x=x, weight=array(weight[first:], np.uint16), squares=squares,
                temperatures=temperatures, seeds=seeds, positions=positions, best=best, best_index=index, first_token=first)(
                    seed=0)
            for row in range(rows):
                scores = (product * inverse)[row] / 0.7 + gumbel(int(seeds[row]), int(positions[row]), outputs)
                chosen = index[row][np.argmax(best[row])]
                self.assertLess(scores[first:].max() - scores[first + chosen], 1e-4)

    def test_equal_logits_give_the_first(self):
        for shape in (FEW[1], TALL[0]):
            rows, outputs, columns = shape[-2], 64, self.columns(shape)[0]
            x, weight = to_bf16(np.ones((rows, shape[0]))), to_bf16(np.ones((outputs, shape[0])))
            squares, temperatures = array(np.ones((rows, PARTS))), array(np.zeros(rows))
            best, index = aligned((rows, 2), np.float32), aligned((rows, 2), np.int32)
            self.launch(
                shape, 1, CHOOSE, outputs, 2, x=x, weight=weight, squares=squares, temperatures=temperatures, best=best,
                best_index=index)(seed=0)
            self.assertTrue((index == [0, columns]).all())


def gumbel(seed, position, count):
    mask, result = (1 << 64) - 1, []
    for token in range(count):
        z = (seed + position * 0x9E3779B97F4A7C15 + token * 0xD1B54A32D192ED03) & mask
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & mask
        z ^= z >> 31
        result.append(-np.log(-np.log1p(-((z >> 32) + 0.5) * 2.0**-32)))
    return np.array(result)


class Steps(Case):
    @classmethod
    def setUpClass(cls):
        names = ["embed_rows", "pick_rows", "choose_tokens", "swiglu_turns", "add_bias", "fill_uniform", "token_log_probabilities"]
        names += ["choose_of_rank", "choose_of_ranks", "join_logits"]
        cls.kernels = emulate.kernels("decoder_step.cu", names)

    def test_rows_into_the_residual_stream(self):
        for width in (7, 64, 1100):
            table, weight = to_bf16(self.normal(10, width)), array(self.normal(width))
            tokens = array([3, 9, 0, 10], np.int32)
            residual, y = aligned((4, width), np.float32), aligned((4, width), np.uint16)
            squares = aligned((4, 3), np.float32)
            self.twice(
                lambda seed, lazy=False: self.kernels["embed_rows"](
                    4, 256, tokens, table, 2.0, weight, residual, y, squares, 3, width, 10, seed=seed), residual, y, squares)
            expected = 2 * wide(table)[tokens[:3]]
            self.assertTrue(np.array_equal(residual[:3], expected.astype(np.float32)))
            self.assertTrue(np.isnan(residual[3]).all())
            self.assertLess(error(wide(y[:3]), expected * weight), 4e-3)
            self.assertLess(error(squares[:3, 0], (expected**2).sum(1)), 1e-6)
            self.assertFalse(squares[:, 1:].any())

            rows, picked, sums = array([2, 0], np.int32), aligned((2, width), np.uint16), aligned((2, 3), np.float32)
            self.kernels["pick_rows"](2, 256, residual, rows, weight, picked, sums, 3, width)
            self.assertTrue(np.array_equal(picked, y[[2, 0]]))
            self.assertTrue(np.array_equal(sums, squares[[2, 0]]))

    def test_chosen_tokens_follow_each_other(self):
        best = array([[1, 5, 5], [np.nan, 2, 1], [9, 9, 9], [np.nan, np.nan, np.nan]])
        index = array([[4, 8, 6], [1, 2, 3], [7, 7, 7], [2**31 - 1] * 3], np.int32)
        tokens, lengths = array([-5] * 4, np.int32), array([3, 5, 0, 1], np.int32)
        history = array(np.full((4, 5), -1), np.int32)
        self.kernels["choose_tokens"](1, 256, best, index, 3, tokens, lengths, history, 5, 4)
        self.assertEqual(tokens.tolist(), [6, 2, -5, -1])
        self.assertEqual(lengths.tolist(), [4, 6, 0, 2])
        self.assertEqual(history[0].tolist(), [-1, -1, -1, 6, -1])
        self.assertTrue((history[1] == -1).all(), "position 5 is not in the history")

    def test_ranks_choose_what_one_chooses(self):
        """Of parts of the vocabulary, with equal values and rows of NaN."""
        ranks, rows, parts, width = 3, 37, 5, 40
        values = self.random.integers(-3, 3, (rows, ranks * parts)).astype(np.float32)
        values[7], values[8, :parts] = np.nan, np.nan
        index = array(self.random.integers(0, width, (rows, ranks * parts)), np.int32)
        index[np.isnan(values)] = 2**31 - 1
        offset = np.repeat(np.arange(ranks) * width, parts)
        whole = array(np.where(index == 2**31 - 1, index, index + offset), np.int32)
        lengths = self.random.integers(0, 4, rows)
        expected = [array(np.full(rows, -5), np.int32), array(lengths, np.int32), array(np.full((rows, 3), -7), np.int32)]
        self.kernels["choose_tokens"](-(-rows // 8), 256, array(values), whole, ranks * parts, *expected, 3, rows)
        choices = aligned((ranks, rows, 2), np.int32)
        for rank in range(ranks):
            own = np.s_[:, rank * parts:(rank + 1) * parts]
            self.kernels["choose_of_rank"](
                -(-rows // 8), 256, array(values[own]), array(index[own], np.int32), parts, choices[rank], rank * width, rows)
        found = [array(np.full(rows, -5), np.int32), array(lengths, np.int32), array(np.full((rows, 3), -7), np.int32)]
        self.kernels["choose_of_ranks"](1, 256, choices, ranks, *found, 3, rows)
        for a, b in zip(found, expected):
            self.assertTrue(np.array_equal(a, b))
        self.assertEqual(found[0][7], -1 if lengths[7] else -5)

    def test_logits_of_ranks_side_by_side(self):
        for ranks, vocabulary in ((2, 1003), (8, 999), (3, 6)):
            logits, most = array(self.normal(5, vocabulary)), -(-vocabulary // ranks)
            parts = array(np.full((ranks, 5 * most), np.nan))
            for rank in range(ranks):
                own = logits[:, rank * vocabulary // ranks:(rank + 1) * vocabulary // ranks]
                parts[rank, :own.size] = own.reshape(-1)
            found = aligned((5, vocabulary), np.float32)
            self.kernels["join_logits"](
                (2, 5, ranks), 256, parts, found, ctypes.c_longlong(5 * most), ranks, 5, vocabulary)
            self.assertTrue(np.array_equal(found, logits))

    def test_log_probabilities_of_chosen_tokens(self):
        for width in (3, 1000, 5004):
            logits = array(self.normal(4, width) * 5)
            logits[1, :2] = [90, -np.inf]
            tokens, lengths = array([1, 0, 2, 2], np.int32), array([3, 6, 0, 1], np.int32)
            found = array(np.full((4, 5), 7))
            self.twice(
                lambda seed, lazy=False: self.kernels["token_log_probabilities"](
                    4, 1024, logits, tokens, lengths, found, 5, width, seed=seed), found)
            wide_logits = logits.astype(np.float64)
            sums = np.log(np.exp(wide_logits - wide_logits.max(1, keepdims=True)).sum(1)) + wide_logits.max(1)
            expected = wide_logits[np.arange(4), tokens] - sums
            self.assertLess(abs(found[0, 2] - expected[0]), 2e-6 * max(1, abs(expected[0])))
            self.assertLess(abs(found[3, 0] - expected[3]), 2e-6 * max(1, abs(expected[3])))
            others = found.copy()
            others[0, 2] = others[3, 0] = 7
            self.assertTrue((others == 7).all(), "position 5 is not kept, and a row of length 0 does not exist")

    def test_swiglu_and_biases(self):
        x, bias = to_bf16(self.normal(5, 48)), array(self.normal(48))
        out = aligned((5, 24), np.uint16)
        for added in (None, bias):
            self.kernels["swiglu_turns"](
                2, 256, x, ctypes.c_void_p(address(added)), out, ctypes.c_longlong(120), 24)
            turns = (wide(x) + (0 if added is None else added)).reshape(5, 3, 2, 8)
            expected = turns[:, :, 0] / (1 + np.exp(-turns[:, :, 0])) * turns[:, :, 1]
            self.assertLess(error(wide(out), expected.reshape(5, 24)), 4e-3)
        residual = array(self.normal(5, 48))
        expected = residual + bias
        self.kernels["add_bias"](2, 256, residual, bias, ctypes.c_longlong(240), 48)
        self.assertTrue(np.array_equal(residual, expected))

    def test_random_weights(self):
        x = aligned(5000, np.uint16)
        self.kernels["fill_uniform"](3, 256, x, ctypes.c_longlong(5000), ctypes.c_ulonglong(3), 0.5)
        values = wide(x)
        self.assertTrue((abs(values) <= 0.5).all())
        self.assertLess(abs(values.mean()), 0.02)
        self.assertLess(abs(values.std() - 0.5 / 3**0.5), 0.01)


class PeerSums(ctypes.Structure):
    _fields_ = [("parts", ctypes.c_void_p * 8), ("flags", ctypes.c_void_p * 8), ("begun", ctypes.c_void_p)]
    _fields_ += [(name, ctypes.c_int) for name in ("rank", "ranks", "blocks", "unused")]


class RankSums(Case):
    @classmethod
    def setUpClass(cls):
        cls.kernels = emulate.kernels("rank_sums.cu", ["add_sums", "add_peer_sums"])

    def check(self, residual, y, squares, expected, weight):
        self.assertLess(error(residual, expected), 1e-7)
        self.assertLess(error(wide(y), expected * weight), 4e-3)
        self.assertLess(error(squares.astype(np.float64).sum(1), (expected**2).sum(1)), 1e-6)

    def test_a_sum_joins_the_residual_stream(self):
        for width in (7, 64, 2048, 4104):
            residual, weight, sums = array(self.normal(3, width)), array(self.normal(width)), to_bf16(self.normal(3, width))
            slices = -(-width // 2048)
            y, squares = aligned((3, width), np.uint16), aligned((3, slices), np.float32)
            expected = residual.astype(np.float64) + wide(sums)
            self.twice(
                lambda seed, lazy=False: self.kernels["add_sums"](
                    (slices, 3, 1), 256, sums, residual, weight, y, squares, width, seed=seed), residual, y, squares)
            self.check(residual, y, squares, expected, weight)

    def test_ranks_read_each_others_parts(self):
        """Ranks as threads, sums one after the other with parts in two places by turns."""
        for ranks, width, rows in ((2, 4104, 5), (3, 64, 3), (8, 7, 2)):
            slices, sums, most = -(-width // 2048), 6, rows * -(-width // 2048) + 3
            parts = [[to_bf16(self.normal(rows, width)) for _ in range(sums)] for _ in range(ranks)]
            places = [[aligned((rows, width), np.uint16) for _ in range(2)] for _ in range(ranks)]
            # Numbers that overflow on the way.
            start = np.uint32(2**32 - 3)
            flags = [array(np.full((ranks, most), start), np.uint32) for _ in range(ranks)]
            begun = [array(np.full(most, start), np.uint32) for _ in range(ranks)]
            first, weight = array(self.normal(rows, width)), array(self.normal(width))
            results = [(array(first), aligned((rows, width), np.uint16), aligned((rows, slices), np.float32)) for _ in range(ranks)]

            def run(rank):
                for number in range(sums):
                    places[rank][number % 2][...] = parts[rank][number]
                    p = PeerSums(rank=rank, ranks=ranks, blocks=most, begun=address(begun[rank]))
                    for other in range(ranks):
                        p.parts[other], p.flags[other] = address(places[other][number % 2]), address(flags[other])
                    residual, y, squares = results[rank]
                    self.kernels["add_peer_sums"](
                        (slices, rows, 1), 256, p, residual, weight, y, squares, width, seed=rank + number, resident=1)

            with concurrent.futures.ThreadPoolExecutor(ranks) as pool:
                list(pool.map(run, range(ranks)))
            expected = first.astype(np.float64) + sum(wide(part) for rank in parts for part in rank)
            for residual, y, squares in results:
                self.assertTrue(np.array_equal(residual, results[0][0]), "the same bits on all ranks")
                self.check(residual, y, squares, expected, weight)


class Pages:
    """Pages of grouped attention; what no token fills is NaN."""

    def __init__(self, random, lengths, groups, head, page_size):
        used = [-(-n // page_size) for n in lengths]
        order = random.permutation(sum(used) + 1)
        self.groups, self.head, self.page_size = groups, head, page_size
        self.table = aligned((len(lengths), max(used) + 1), np.int32, 2**30)
        self.cache = aligned((len(order), groups, page_size, 2 * head), np.uint16, 0x7FFF)
        for b, count in enumerate(used):
            self.table[b, :count] = order[sum(used[:b]) : sum(used[:b]) + count]

    def row(self, sequence, token):
        """Value and key of all groups, as a view."""
        return self.cache[self.table[sequence, token // self.page_size], :, token % self.page_size]


def rotation(pairs, positions, theta=100.0):
    angle = np.outer(np.arange(positions), theta ** -(np.arange(pairs) / pairs))
    return array(np.cos(angle)), array(np.sin(angle))


def rotate(x, cosine, sine, interleaved):
    """The first elements of x [..., head]; cosine and sine [pairs]."""
    x, pairs = x.copy(), len(cosine)
    first, second = (slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)) if interleaved else (slice(0, pairs), slice(pairs, 2 * pairs))
    a, b = x[..., first].copy(), x[..., second].copy()
    x[..., first], x[..., second] = a * cosine - b * sine, b * cosine + a * sine
    return x


# Heads of a group, groups, width, rotated, interleaved, norm, page size, warps, tiles ahead.
GROUPED = [
    (3, 3, 64, 64, 0, 0, 64, 4, 2), (1, 2, 16, 8, 1, 0, 16, 2, 1), (4, 1, 128, 128, 0, 1, 16, 4, 1),
    (2, 2, 256, 64, 1, 1, 32, 4, 1), (8, 1, 32, 32, 0, 0, 64, 8, 3), (2, 1, 96, 96, 0, 0, 64, 1, 2)]


class Grouped(Case):
    @staticmethod
    def definitions(shape):
        _, _, head, rotated, interleaved, norm, page_size = shape[:7]
        return dict(HEAD=head, ROTATED=rotated, INTERLEAVED=interleaved, NORM=norm, PAGE_SIZE=page_size)

    @classmethod
    def step_definitions(cls, shape):
        return cls.definitions(shape) | dict(HEADS=shape[0], WARPS=shape[7], AHEAD=shape[8])

    @classmethod
    def setUpClass(cls):
        emulate.prepare(
            [("grouped_append.cu", "grouped_append", cls.definitions(s)) for s in GROUPED]
            + [("grouped_step.cu", "grouped_step", cls.step_definitions(s)) for s in GROUPED])

    def prepared(self, x, norm, shape, cosine, sine):
        """Heads [..., head], normalised and rotated, in float64."""
        if shape[5]:
            x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * norm
        return rotate(x, cosine, sine, shape[4])

    def test_append(self):
        for shape in GROUPED:
            heads, groups, head = shape[0] * shape[1], shape[1], shape[2]
            sequences, positions = [0, 0, 0, 2, 2, 1], [5, 6, 7, 0, 1, 70]
            pages = Pages(self.random, [8, 71, 2], groups, head, shape[6])
            before = pages.cache.copy()
            qkv = to_bf16(self.normal(6, heads + 2 * groups, head))
            norms = [array(self.normal(head)) for _ in range(2)]
            cosine, sine = rotation(shape[3] // 2, 80)
            for bias in (None, array(self.normal(heads + 2 * groups, head))):
                pages.cache[...] = before
                query = aligned((6, heads, head), np.uint16)
                arrays = array(sequences, np.int32), array(positions, np.int32)
                p = GroupedAppend(
                    *map(address, (qkv, bias, *norms, cosine, sine, query, pages.cache, pages.table, *arrays, None)),
                    page_elements=pages.cache[0].size, page_stride=pages.table.shape[1], tokens=6, query_heads=heads,
                    groups=groups, epsilon=1e-6)
                kernel = emulate.Kernel("grouped_append.cu", "grouped_append", self.definitions(shape))
                self.twice(lambda seed, lazy=False: kernel(2, 256, p, seed=seed), query, pages.cache)
                rows = wide(qkv) + (0 if bias is None else bias)
                written = 0
                for i, (sequence, position) in enumerate(zip(sequences, positions)):
                    angles = cosine[position], sine[position]
                    expected = self.prepared(rows[i, :heads], norms[0], shape, *angles)
                    self.assertLess(error(wide(query[i]), expected), 4e-3)
                    row = wide(pages.row(sequence, position))
                    self.assertLess(error(row[:, :head], rows[i, heads + groups :]), 4e-3)
                    self.assertLess(
                        error(row[:, head:], self.prepared(rows[i, heads : heads + groups], norms[1], shape, *angles)), 4e-3)
                    written += row.size
                self.assertEqual(int((pages.cache != 0x7FFF).sum()), written, "nothing else is written")

    def test_steps(self):
        for shape in GROUPED:
            for window in (1 << 30, 50):
                self.step(shape, [1, 0, 200, 65, 64, 130], window)

    def step(self, shape, lengths, window):
        per_group, groups, head = shape[:3]
        heads, batch = per_group * groups, len(lengths)
        pages = Pages(self.random, lengths, groups, head, shape[6])
        for b, n in enumerate(lengths):
            for token in range(n - 1):
                pages.row(b, token)[...] = to_bf16(self.normal(groups, 2 * head))
        qkv = to_bf16(self.normal(batch, heads + 2 * groups, head))
        norms = [array(self.normal(head)) for _ in range(2)]
        cosine, sine = rotation(shape[3] // 2, 200)
        output, held = aligned((batch, heads, head), np.uint16), array(lengths, np.int32)
        p = GroupedStep(
            *map(address, (qkv, *norms, cosine, sine, pages.cache, pages.table, held, output)),
            page_elements=pages.cache[0].size, page_stride=pages.table.shape[1], groups=groups, window=window, epsilon=1e-6,
            scale_log2=head**-0.5 * np.log2(np.e))
        kernel = emulate.Kernel("grouped_step.cu", "grouped_step", self.step_definitions(shape))
        self.twice(lambda seed, lazy=False: kernel((groups, batch, 1), 32 * shape[7], p, seed=seed), output, pages.cache)
        rows = wide(qkv)
        for b, n in enumerate(lengths):
            if n == 0:
                self.assertTrue((output[b] == 0xFFFF).all())
                continue
            angles = cosine[n - 1], sine[n - 1]
            query = self.prepared(rows[b, :heads], norms[0], shape, *angles)
            key = self.prepared(rows[b, heads : heads + groups], norms[1], shape, *angles)
            new = wide(pages.row(b, n - 1))
            self.assertLess(error(new[:, head:], key), 4e-3)
            self.assertTrue(np.array_equal(new[:, :head], rows[b, heads + groups :]))
            seen = np.stack([wide(pages.row(b, token)) for token in range(max(0, n - window), n)])
            for h in range(heads):
                own = seen[:, h // per_group]
                s = own[:, head:] @ query[h] * head**-0.5
                weights = np.exp(s - s.max())
                self.assertLess(error(wide(output[b, h]), weights @ own[:, :head] / weights.sum()), 5e-3, (shape, n, h))


if __name__ == "__main__":
    unittest.main()
