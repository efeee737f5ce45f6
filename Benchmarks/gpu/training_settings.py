"""Training attention: compile-time settings, items of work and kernel arguments. Needs numpy, no GPU and no torch.

Settings and items are those of TrainingAttentionSettings and TrainingAttentionItems (Sources/ApusTensor/CUDA/Attention).

`Plan` knows a shape and the sequences of a batch; what launches its kernels (a driver with `tensor_map`, kernels called as
kernel(grid, threads, *arguments)) is given to it: Benchmarks/gpu/driver.py on a GPU, Tests/Emulation/emulate.py on a CPU.
"""

import collections
import ctypes

import numpy

TILE = 128  # rows of an item
THREADS = 384
L2_SHARE = 24 << 20  # bytes of keys and values that items in a row keep in L2

# Widths of a head: the key's own part, its part kept once for all heads, the value.
Shape = collections.namedtuple("Shape", "heads kv_heads key once value")
# [token][head][width] of bf16 or float32 at an address; strides in elements.
View = collections.namedtuple("View", "pointer heads width token_stride head_stride")


def panels(width):
    return -(-width // 64)


def forward_settings(shape, float32=False, BLOCK_N=None, **changes):
    """(definitions, bytes of dynamic shared memory) of attention_forward.cu; `changes` of what is defined, to measure."""
    block = BLOCK_N or (128 if shape.value <= 128 and shape.key + shape.once <= 192 else 64)
    query = panels(shape.key + shape.once) * 64 * 128
    stage = (panels(shape.key) + panels(shape.once) + panels(shape.value)) * block * 128
    stages = min(4, (226 * 1024 - 2 * query) // stage)
    definitions = dict(
        KEY=shape.key, ONCE=shape.once, VALUE=shape.value, BLOCK_N=block, STAGES=stages, OUTPUT_FLOAT32=int(float32), **changes)
    return definitions, 2 * query + stages * stage


def backward_settings(shape, output_float32=False, float32=False, adds=False, BLOCK_N=64, BLOCK_M=None, **changes):
    """[(definitions, bytes of dynamic shared memory)] of attention_backward_queries.cu and attention_backward_keys.cu."""
    key, value, query = panels(shape.key) + panels(shape.once), panels(shape.value), panels(shape.key + shape.once)
    shared = dict(
        KEY=shape.key, ONCE=shape.once, VALUE=shape.value, OUTPUT_FLOAT32=int(output_float32), FLOAT32=int(float32),
        ADDS=int(adds), **changes)
    most, block = 226 * 1024, BLOCK_N
    rows, stage = 2 * (query + value) * 64 * 128, (key + value) * block * 128
    stages = min(4, (most - rows) // stage)
    queries = dict(shared, BLOCK_N=block, STAGES=stages), rows + stages * stage
    block = BLOCK_M or (64 if shape.key + shape.once + shape.value <= 256 else 32)  # as registers allow
    rows, stage = 2 * (key + value) * 64 * 128, (query + value) * block * 128 + block * 8
    stages = min(4, (most - rows) // stage)
    return queries, (dict(shared, BLOCK_M=block, STAGES=stages), rows + stages * stage)


def padded_starts(starts):
    """Where each sequence begins when every one begins at a multiple of TILE, and the whole."""
    lengths = [-(-(b - a) // TILE) * TILE for a, b in zip(starts, starts[1:])]
    return [sum(lengths[:i]) for i in range(len(lengths) + 1)]


def items(starts, heads, window, of_keys, bytes_per_row, cached=None):
    """int32 [count][8]: `struct Item` of attention_items.cuh, in the order in which they are to begin. `cached`: tokens before
    each sequence's own (prefill).

    Heads and sequences whose keys and values fit together into a share of L2 come one group after the other, so that tiles
    that read the same rows find them there; within a group the longest come first.
    """
    padded = padded_starts(starts)
    groups, group, held = [], [], 0
    for sequence, (begin, end) in enumerate(zip(starts, starts[1:])):
        length = end - begin
        if length == 0:
            continue
        before = cached[sequence] if cached else 0
        rows = numpy.arange(0, length, TILE)
        last = numpy.minimum(rows + TILE, length)
        if of_keys:  # rows that see the tile
            cost = numpy.minimum(length, last - 1 + window) - rows
        else:  # keys that the tile sees
            cost = before + last - numpy.maximum(0, before + rows - window + 1)
        for head in range(heads):
            size = (before + length) * bytes_per_row
            if group and held + size > L2_SHARE:
                groups.append(group)
                group, held = [], 0
            held += size
            group += [
                (c, begin, length, r, head, padded[sequence], before, sequence) for c, r in zip(cost.tolist(), rows.tolist())]
    groups.append(group)
    ordered = [item[1:] for g in groups for item in sorted(g, key=lambda item: -item[0])]
    result = numpy.zeros((len(ordered), 8), numpy.int32)
    if ordered:
        result[:, :7] = ordered
    return result


class Work(ctypes.Structure):
    _fields_ = [("items", ctypes.c_void_p), ("counters", ctypes.c_void_p)]
    _fields_ += [(n, ctypes.c_int) for n in ("count", "heads", "group", "window")] + [("scale", ctypes.c_float)]


class Forward(ctypes.Structure):
    _fields_ = [("work", Work), ("output", ctypes.c_void_p), ("lse", ctypes.c_void_p)]


class Target(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("token_stride", ctypes.c_longlong), ("head_stride", ctypes.c_longlong)]


class Backward(ctypes.Structure):
    _fields_ = [("work", Work)] + [(n, ctypes.c_void_p) for n in ("output", "gradient", "lse", "rows", "once")]
    _fields_ += [("query", Target), ("key", Target), ("value", Target), ("padded", ctypes.c_int), ("tokens", ctypes.c_int)]


class Plan:
    """Attention of one shape over sequences that begin at `starts` (with the end), a window of keys or None."""

    def __init__(self, shape, starts, scale, window=None, float32=False, gradients_float32=False, adds=False, forward={},
                 backward={}):
        self.shape, self.starts, self.scale, self.float32 = shape, list(starts), scale, float32
        self.window = window or 1 << 30
        self.tokens, self.padded = starts[-1], padded_starts(starts)[-1]
        self.group = shape.heads // shape.kv_heads
        # Queries of one KV head read the same keys.
        row = (shape.key + shape.once + shape.value) * 2 / self.group
        self.row_items = items(self.starts, shape.heads, self.window, False, row)
        self.key_items = items(self.starts, shape.kv_heads, self.window, True, row * self.group)
        self.gradients_float32, self.adds = gradients_float32, adds
        self.backward_settings = backward_settings(shape, float32, gradients_float32, adds, **backward)
        self.forward_definitions, self.forward_shared = forward_settings(shape, float32, **forward)

    def work(self, memory, counters, found):
        return Work(memory, counters, len(found), self.shape.heads, self.group, self.window, self.scale)

    def tensor_map(self, driver, view, rows):
        """A map of [token][head][width], boxes of 64 columns of `rows` rows of a head."""
        return driver.tensor_map(
            view.pointer, (view.width, view.heads, self.tokens), (view.head_stride * 2, view.token_stride * 2), (64, 1, rows))

    def operand_maps(self, driver, operands, query_rows, key_rows):
        """Maps of queries, keys, keys kept once and values, `operands` being their views (once: None where there is none)."""
        query, key, once, value = operands
        maps = [self.tensor_map(driver, v, rows) for v, rows in ((query, query_rows), (key, key_rows), (value, key_rows))]
        return maps[0], maps[1], self.tensor_map(driver, once, key_rows) if once else maps[1], maps[2]

    def forward(self, driver, kernel, operands, items, counters, output, lse, blocks, **options):
        """Launches attention_forward; addresses of device memory."""
        if len(self.row_items) == 0:
            return
        maps = self.operand_maps(driver, operands, 64, self.forward_definitions["BLOCK_N"])
        parameters = Forward(self.work(items, counters, self.row_items), output, lse)
        kernel(min(blocks, len(self.row_items)), THREADS, *maps, parameters, **options)

    def backward(
        self, driver, kernels, operands, items, counters, output, gradient, lse, rows, once_parts, targets, blocks, **options
    ):
        """Launches attention_backward_queries, attention_backward_keys and attention_once, the `kernels` (None: left out).

        `items` are the addresses of row and key items, `gradient` that of the output's gradient in bf16; workspaces are `rows`
        (8 bytes x heads x padded) and `once_parts` (4 bytes x KV heads x tokens x once); `targets` are views of where the
        gradients of queries, keys, keys kept once and values go.
        """
        if len(self.row_items) == 0:
            return
        query, key, once, value = targets
        view = View(gradient, self.shape.heads, self.shape.value, self.shape.heads * self.shape.value, self.shape.value)
        target = lambda v: Target(v.pointer, v.token_stride, v.head_stride)
        for name, kernel, found, memory in zip(("BLOCK_N", "BLOCK_M"), kernels, (self.row_items, self.key_items), items):
            if kernel is None:
                continue
            of_keys = name == "BLOCK_M"
            block = self.backward_settings[of_keys][0][name]
            query_rows, key_rows = (block, 64) if of_keys else (64, block)
            maps = self.operand_maps(driver, operands, query_rows, key_rows)
            parameters = Backward(
                self.work(memory, counters, found), output, gradient, lse, rows, once_parts, target(query), target(key),
                target(value), self.padded, self.tokens)
            kernel(
                min(blocks, len(found)), THREADS, *maps, self.tensor_map(driver, view, query_rows), parameters, **options)
        if self.shape.once and kernels[2]:
            kernels[2](
                -(-self.tokens * self.shape.once // 1024), 256, ctypes.c_void_p(once_parts), ctypes.c_void_p(once.pointer),
                self.shape.kv_heads, self.tokens, self.shape.once, ctypes.c_longlong(once.token_stride), **options)
