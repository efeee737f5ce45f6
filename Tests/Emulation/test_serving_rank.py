"""The kernels of Benchmarks/gpu/serving_rank.cu, run on the CPU, against float64."""

import sys
import unittest
from pathlib import Path

import numpy

HERE = Path(__file__).resolve().parent
BENCHMARKS = HERE.parents[1] / "Benchmarks/gpu"
sys.path[:0] = [str(HERE), str(BENCHMARKS)]

import emulate
import serving_rank_settings as s
from attention import relative
from emulate import aligned, from_bf16, to_bf16

# A small model with every kind of its parts: two experts a lane's group, a rank's width of three steps.
MODEL, QUERY_LATENT, LATENT, ROPE, NOPE, HEADS = 1024, 256, 64, 16, 32, 2
EXPERTS, GROUPS, KEPT, PICKS, SHARED, WIDTH = 64, 8, 3, 6, 2, 192
ALL = PICKS + SHARED
DEFINITIONS = dict(
    MODEL=MODEL, QUERY_LATENT=QUERY_LATENT, LATENT=LATENT, ROPE=ROPE, NOPE=NOPE, HEADS=HEADS, EXPERTS=EXPERTS,
    EXPERT_GROUPS=GROUPS, GROUPS_KEPT=KEPT, PICKS=PICKS, SHARED_EXPERTS=SHARED, WIDTH=WIDTH)
NAMES = ["choose", "route", "experts_gate_up", "experts_down", "swiglu_codes", "add_norm", "split_norm", "rotate_queries"]
FACTOR, EPSILON = 16.0, 1e-6


def decoded():
    """Of every e4m3 code, its value."""
    codes = numpy.arange(256)
    exponent, mantissa = codes >> 3 & 15, codes & 7
    value = numpy.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7))
    return numpy.where(codes & 127 == 127, numpy.nan, numpy.where(codes & 128, -value, value))


E4M3 = decoded()


def codes(rng, *shape):
    """Codes of values up to 1.875."""
    found = aligned(shape, numpy.uint8)
    found[...] = rng.integers(0, 64, shape) | rng.integers(0, 2, shape) << 7
    return found


def silu(x):
    return x / (1 + numpy.exp(-x))


def normed(x):
    return x / numpy.sqrt(numpy.square(x).mean(-1, keepdims=True) + EPSILON)


def chosen(logits):
    """Experts and weights of each token; of equal logits the first."""
    order = logits - 1e-9 * numpy.arange(EXPERTS)
    experts = []
    for row in order:
        groups = row.reshape(GROUPS, -1)
        groups[numpy.argsort(-groups.max(1))[KEPT:]] = -numpy.inf
        experts.append(numpy.argsort(-row)[:PICKS])
    shares = numpy.exp(logits) / numpy.exp(logits).sum(1, keepdims=True)
    return numpy.array(experts), FACTOR * numpy.take_along_axis(shares, numpy.array(experts), 1)


class ServingRank(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.kernels = emulate.kernels("serving_rank.cu", NAMES, DEFINITIONS, folders=[BENCHMARKS, *emulate.FOLDERS])

    def logits(self, rng, tokens):
        return to_bf16(numpy.round(rng.standard_normal((tokens, EXPERTS)) * 8) / 8)  # with many that are equal

    def test_choice_of_experts(self):
        logits = self.logits(numpy.random.default_rng(), 37)
        experts, weights = aligned((37, PICKS), numpy.int16), aligned((37, PICKS), numpy.float32)
        self.kernels["choose"](5, 256, logits, 37, FACTOR, experts, weights)
        wanted, shares = chosen(from_bf16(logits).astype(numpy.float64))
        self.assertTrue((experts == wanted).all())
        self.assertLess(relative(weights, shares), 1e-5)

    def test_experts_of_a_step(self):
        rng = numpy.random.default_rng()
        for tokens in (1, 5, 41):
            logits, x = self.logits(rng, tokens), to_bf16(rng.standard_normal((tokens, MODEL)))
            logits[:, 3] = 0x4100  # 8: an expert that all tokens take, in more than one chunk
            count = SHARED * -(-tokens // s.CHUNK) + min(tokens * PICKS, EXPERTS + tokens * PICKS // s.CHUNK)
            chunks, pairs = aligned((count, 4), numpy.int32), aligned(tokens * ALL, numpy.int32)
            weights, touched = aligned((tokens, ALL), numpy.float32), aligned(1, numpy.int32, 5)
            self.kernels["route"](1, 1024, logits, tokens, FACTOR, chunks, count, pairs, weights, touched)
            experts, shares = chosen(from_bf16(logits).astype(numpy.float64))
            self.assertEqual(touched[0], 5 + len(numpy.unique(experts)))
            self.assertTrue((numpy.sort(pairs) == numpy.arange(tokens * ALL)).all())
            self.assertLess(relative(weights[:, :PICKS], shares), 1e-5)
            self.assertTrue((weights[:, PICKS:] == 1).all())

            gate_up, down = codes(rng, EXPERTS + SHARED, 2 * WIDTH, MODEL), codes(rng, EXPERTS + SHARED, MODEL, WIDTH)
            scales = [aligned(EXPERTS + SHARED, numpy.float32, (0.5 + rng.random(EXPERTS + SHARED)) * w.shape[2] ** -0.5) for w in (gate_up, down)]
            hidden, y = aligned((tokens * ALL, WIDTH), numpy.uint16), aligned((tokens * ALL, MODEL), numpy.uint16)
            self.kernels["experts_gate_up"]((WIDTH // 16, count, 1), 256, chunks, x, gate_up, scales[0], pairs, hidden)
            self.kernels["experts_down"]((MODEL // 256, count, 1), 256, chunks, hidden, down, scales[1], pairs, y)
            rows = from_bf16(x).astype(numpy.float64)
            for token, slot in ((t, i) for t in {0, tokens // 2, tokens - 1} for i in range(ALL)):
                expert = experts[token, slot] if slot < PICKS else EXPERTS + slot - PICKS
                gate, up = numpy.split(E4M3[gate_up[expert]] @ rows[token] * scales[0][expert], 2)
                wanted = E4M3[down[expert]] @ (silu(gate) * up) * scales[1][expert]
                self.assertLess(relative(from_bf16(y[token * ALL + slot]), wanted), 1e-2)

    def test_sums_and_norms(self):
        rng, tokens = numpy.random.default_rng(), 3
        gain = aligned(MODEL, numpy.float32, 0.5 + rng.random(MODEL))
        for addends, other, shuffled in ((0, False, False), (0, True, False), (PICKS, True, True), (ALL, False, False)):
            residual = to_bf16(rng.standard_normal((tokens, MODEL)))
            rest, y = to_bf16(rng.standard_normal((tokens, MODEL))), to_bf16(rng.standard_normal((tokens * max(1, addends), MODEL)))
            weights = aligned(tokens * max(1, addends), numpy.float32, rng.random(tokens * max(1, addends)))
            places = aligned(len(y), numpy.int32, rng.permutation(len(y)))
            x, e4m3 = aligned((tokens, MODEL), numpy.uint16), aligned((tokens, MODEL), numpy.uint8)
            wanted = from_bf16(residual).astype(numpy.float64) + (from_bf16(rest) if other else 0)
            if addends:
                added = from_bf16(y)[places if shuffled else numpy.arange(len(y))] * weights[:, None]
                wanted = wanted + added.reshape(tokens, addends, MODEL).sum(1)
            none = emulate.ctypes.c_void_p(0)
            self.kernels["add_norm"](
                tokens, MODEL // 8, residual, rest if other else none, y, weights, places if shuffled else none, addends, gain,
                EPSILON, x, e4m3)
            self.assertLess(relative(from_bf16(residual), wanted), 4e-3)
            self.assertLess(relative(from_bf16(x), normed(wanted) * gain), 4e-3)
            self.assertLess(relative(E4M3[e4m3], normed(wanted) * gain), 4e-2)

    def test_parts_of_a_row(self):
        rng, tokens = numpy.random.default_rng(), 3
        rows, gain = to_bf16(rng.standard_normal((tokens, QUERY_LATENT + LATENT + ROPE))), aligned(QUERY_LATENT, numpy.float32, 0.5 + rng.random(QUERY_LATENT))
        query, latent, key = aligned((tokens, QUERY_LATENT), numpy.uint8), aligned((tokens, LATENT), numpy.uint16), aligned((tokens, ROPE), numpy.uint16)
        self.kernels["split_norm"](tokens, QUERY_LATENT // 8, rows, gain, EPSILON, query, latent, key)
        self.assertLess(relative(E4M3[query], normed(from_bf16(rows[:, :QUERY_LATENT]).astype(numpy.float64)) * gain), 4e-2)
        self.assertTrue((latent == rows[:, QUERY_LATENT:-ROPE]).all() and (key == rows[:, -ROPE:]).all())

        gate_up, found = to_bf16(rng.standard_normal((tokens, 2, 40))), aligned((tokens, 40), numpy.uint8)
        self.kernels["swiglu_codes"](1, 256, gate_up, found, tokens, 40)
        values = from_bf16(gate_up).astype(numpy.float64)
        self.assertLess(relative(E4M3[found], silu(values[:, 0]) * values[:, 1]), 4e-2)

    def test_rotation(self):
        rng, lengths = numpy.random.default_rng(), aligned(2, numpy.int32, [9, 30])
        queries = to_bf16(rng.standard_normal((4, HEADS, NOPE + ROPE)))
        turns = numpy.arange(31)[:, None] * 10000.0 ** (-2 * numpy.arange(ROPE // 2) / ROPE)
        angles = aligned((31, ROPE // 2, 2), numpy.float32, numpy.stack([numpy.cos(turns), numpy.sin(turns)], 2))
        target = aligned((4, HEADS, ROPE + 8), numpy.uint16, 7)
        self.kernels["rotate_queries"](4, 32, queries, angles, lengths, 2, target, HEADS * (ROPE + 8), ROPE + 8)
        first, second = numpy.split(from_bf16(queries[:, :, NOPE:]).astype(numpy.float64), 2, 2)
        cosine, sine = (f(turns[[7, 8, 28, 29]])[:, None] for f in (numpy.cos, numpy.sin))
        wanted = numpy.concatenate([first * cosine - second * sine, second * cosine + first * sine], 2)
        self.assertLess(relative(from_bf16(target[:, :, :ROPE]), wanted), 4e-3)
        self.assertTrue((target[:, :, ROPE:] == 7).all())


if __name__ == "__main__":
    unittest.main()
