"""Training attention in float64, and random cases of it for the emulator."""

import sys
from pathlib import Path

import numpy

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "Benchmarks/gpu")]

import emulate
from emulate import aligned, from_bf16, to_bf16
from training_settings import Plan, Shape, View


def softmax(query, key, once, value, scale, window):
    """One head of one sequence in float64: weights, output, log-sum-exp. Rows are [token][width]."""
    whole = key if once is None else numpy.concatenate([key, once], 1)
    scores = query @ whole.T * scale
    rows, keys = numpy.indices(scores.shape)
    scores = numpy.where((keys <= rows) & (keys > rows - window), scores, -numpy.inf)
    largest = scores.max(1, keepdims=True)
    weights = numpy.exp(scores - largest)
    sums = weights.sum(1, keepdims=True)
    weights /= sums
    return weights, weights @ value, (largest + numpy.log(sums))[:, 0], whole


def values_of(array):
    return from_bf16(array) if array.dtype == numpy.uint16 else array


def relative(found, expected):
    """||found - expected|| / ||expected||, an element of which counts at least 0.1: of what cancels only roundings are left."""
    error = numpy.linalg.norm(found - expected) / max(numpy.linalg.norm(expected), 0.1 * expected.size**0.5)
    return error if error == error else numpy.inf


class Case:
    """Random operands of a plan, packed as layers pack them (query, key and value side by side), and what is to come out."""

    def __init__(
        self, shape, lengths, window=None, float32=False, gain=1.0, scale=None, seed=None, poison_rows=0, gradients_float32=False,
        adds=False
    ):
        rng = numpy.random.default_rng(seed)
        self.shape, self.starts = shape, numpy.concatenate([[0], numpy.cumsum(lengths)]).tolist()
        self.scale = scale if scale is not None else (shape.key + shape.once) ** -0.5
        self.plan = Plan(shape, self.starts, self.scale, window, float32, gradients_float32, adds)
        tokens = self.starts[-1]
        cuts = numpy.cumsum([0, shape.heads * (shape.key + shape.once), shape.kv_heads * shape.key, shape.once, shape.kv_heads * shape.value])
        # Rows behind the last sequence are NaN: they are not part of it.
        self.memory = aligned((tokens + poison_rows, -(-cuts[-1] // 8) * 8), numpy.uint16)
        self.memory[:tokens, : cuts[-1]] = to_bf16(rng.standard_normal((tokens, cuts[-1])) * numpy.where(numpy.arange(cuts[-1]) < cuts[1], gain, 1.0))
        self.cuts = cuts
        widths = [shape.key + shape.once, shape.key, shape.once, shape.value]
        heads = [shape.heads, shape.kv_heads, 1, shape.kv_heads]
        self.views = [
            View(self.memory.ctypes.data + 2 * int(cut), h, w, self.memory.shape[1], w) if w else None
            for cut, h, w in zip(cuts, heads, widths)]
        values = from_bf16(self.memory[:tokens]).astype(numpy.float64)
        self.operands = [
            values[:, cut : cut + h * w].reshape(tokens, h, w) if w else None for cut, h, w in zip(cuts, heads, widths)]
        self.output = aligned((tokens, shape.heads, shape.value), numpy.float32 if float32 else numpy.uint16)
        self.lse = aligned((tokens, shape.heads), numpy.float32)
        self.gradient = to_bf16(rng.standard_normal(self.output.shape))
        # Gradients go where operands lie, in memory of the same form.
        self.gradients = aligned(self.memory.shape, numpy.float32 if gradients_float32 else numpy.uint16)
        if adds:
            self.gradients[...] = values_of(to_bf16(rng.standard_normal(self.memory.shape))) if gradients_float32 else to_bf16(
                rng.standard_normal(self.memory.shape))
        self.before = values_of(self.gradients).astype(numpy.float64) if adds else 0.0
        size = self.gradients.itemsize
        self.targets = [
            v._replace(pointer=self.gradients.ctypes.data + size * int(cut)) if v else None for v, cut in zip(self.views, cuts)]

    def run_forward(self, blocks=2, **options):
        plan = self.plan
        kernel = emulate.Kernel("attention_forward.cu", "attention_forward", plan.forward_definitions, plan.forward_shared)
        items, counters = aligned(plan.row_items.shape, numpy.int32, plan.row_items), aligned(2, numpy.uint32, 0)
        plan.forward(
            emulate, kernel, self.views, items.ctypes.data, counters.ctypes.data, self.output.ctypes.data,
            self.lse.ctypes.data, blocks, **options)
        assert not counters.any(), "counters are left as they were found"

    def run_backward(self, blocks=2, **options):
        """From the output and the log-sum-exp of `run_forward`."""
        plan, shape = self.plan, self.shape
        names = ["attention_backward_queries", "attention_backward_keys"]
        kernels = [emulate.Kernel(n + ".cu", n, d, shared) for n, (d, shared) in zip(names, plan.backward_settings)]
        kernels.append(emulate.Kernel(
            "attention_once.cu", "attention_once", dict(FLOAT32=int(plan.gradients_float32), ADDS=int(plan.adds))))
        items = [aligned(i.shape, numpy.int32, i) for i in (plan.row_items, plan.key_items)]
        counters = aligned(2, numpy.uint32, 0)
        rows = aligned((shape.heads, plan.padded, 2), numpy.float32)
        once = aligned((shape.kv_heads, plan.tokens, max(1, shape.once)), numpy.float32)
        plan.backward(
            emulate, kernels, self.views, [i.ctypes.data for i in items], counters.ctypes.data, self.output.ctypes.data,
            self.gradient.ctypes.data, self.lse.ctypes.data, rows.ctypes.data, once.ctypes.data, self.targets, blocks, **options)
        assert not counters.any(), "counters are left as they were found"

    def backward_errors(self):
        """Relative errors of the gradients of queries, keys, keys kept once, values, each over the whole batch."""
        shape, tokens = self.shape, self.starts[-1]
        expected = [None if o is None else numpy.zeros_like(o) for o in self.operands]
        gradient = from_bf16(self.gradient).astype(numpy.float64)
        for rows, head, kv in self.sequences():
            if rows.start == rows.stop:
                continue
            query, key, once, value = self.of_head(rows, head, kv)
            weights, output, _, whole = softmax(query, key, once, value, self.scale, self.plan.window)
            g = gradient[rows, head]
            d_scores = weights * (g @ value.T - (g * output).sum(1, keepdims=True)) * self.scale
            d_key = d_scores.T @ query
            expected[0][rows, head] = d_scores @ whole
            expected[1][rows, kv] += d_key[:, : shape.key]
            if shape.once:
                expected[2][rows, 0] += d_key[:, shape.key :]
            expected[3][rows, kv] += weights.T @ g
        found = values_of(self.gradients)[:tokens].astype(numpy.float64) - (self.before[:tokens] if self.plan.adds else 0.0)
        return [
            relative(found[:, cut : cut + e.shape[1] * e.shape[2]].reshape(e.shape), e)
            for cut, e in zip(self.cuts, expected) if e is not None]

    def untouched(self):
        """Whether nothing was written beside the gradients."""
        beside = self.gradients[self.starts[-1] :], self.gradients[:, self.cuts[-1] :]
        return self.plan.adds or all((part.view(numpy.uint8) == 255).all() for part in beside)

    def sequences(self):
        for begin, end in zip(self.starts, self.starts[1:]):
            for head in range(self.shape.heads):
                yield slice(begin, end), head, head // self.plan.group

    def of_head(self, rows, head, kv):
        query, key, once, value = self.operands
        return query[rows, head], key[rows, kv], None if once is None else once[rows, 0], value[rows, kv]

    def forward_errors(self):
        """Relative error of the output (the worst head of a sequence), largest absolute one of the log-sum-exp."""
        worst, off = 0.0, 0.0
        output = self.output if self.plan.float32 else from_bf16(self.output)
        for rows, head, kv in self.sequences():
            if rows.start == rows.stop:
                continue
            _, expected, lse, _ = softmax(*self.of_head(rows, head, kv), self.scale, self.plan.window)
            error = numpy.linalg.norm(output[rows, head] - expected) / numpy.linalg.norm(expected)
            worst = max(worst, error if error == error else numpy.inf)
            gap = numpy.abs(self.lse[rows, head] - lse) / (1 + numpy.abs(lse))
            off = max(off, float(gap.max()) if not numpy.isnan(gap).any() else numpy.inf)
        return worst, off
