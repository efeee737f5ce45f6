"""Prefill attention over the paged cache: compile-time settings, items and kernel arguments. Needs numpy, no GPU and no torch.

A geometry has heads, groups, shared, value, key, once, as those of decode.py.
"""

import ctypes

from training_settings import THREADS, Work, items, panels


def prefill_settings(geometry, page_size):
    """(definitions, bytes of dynamic shared memory) of prefill.cu."""
    g = geometry
    width, query = g.shared + g.value, g.shared + g.key
    if page_size % 8 or width > 256:
        raise ValueError(f"prefill takes pages of multiples of 8 tokens and outputs up to 256 wide, not {page_size} and {width}")
    # The producer's registers hold the pages of eight copies, and those of the next eight.
    block = 128 if width <= 128 and query <= 192 and page_size > 8 else 64
    rows, stage = 2 * panels(query) * 64 * 128, (panels(width + (0 if g.once else g.key)) + g.once) * block * 128
    stages = min(4, (226 * 1024 - rows) // stage)
    definitions = dict(
        SHARED=g.shared, VALUE=g.value, KEY=g.key, KEY_ONCE=g.once, PAGE_SIZE=page_size, BLOCK_N=block, STAGES=stages)
    return definitions, rows + stages * stage


class Prefill(ctypes.Structure):
    _fields_ = [("work", Work), ("page_table", ctypes.c_void_p), ("output", ctypes.c_void_p), ("lse", ctypes.c_void_p)]
    _fields_ += [("page_stride", ctypes.c_int)]


class PrefillPlan:
    """New tokens of sequences that begin at `starts` (with the end), `cached` tokens before each sequence's."""

    def __init__(self, geometry, starts, cached, page_size, scale, window=None):
        self.geometry, self.tokens, self.page_size, self.scale = geometry, starts[-1], page_size, scale
        self.window, g = window or 1 << 30, geometry
        self.row = g.shared + g.value + (0 if g.once else g.key)
        per_head = 2 * (g.groups * self.row + g.key * g.once) / g.heads
        self.items = items(starts, g.heads, self.window, False, per_head, cached)
        self.definitions, self.shared = prefill_settings(g, page_size)

    def page_bytes(self):
        return 2 * self.page_size * (self.geometry.groups * self.row + self.geometry.key * self.geometry.once)

    def run(self, driver, kernel, query, cache, pages, table, page_stride, items, counters, output, lse, blocks, **options):
        """Launches prefill; addresses of device memory, `query` [token][head][shared | key], `cache` of so many `pages`."""
        if len(self.items) == 0:
            return
        g, row, size = self.geometry, self.row, self.page_size
        width, box = g.shared + g.key, min(size, self.definitions["BLOCK_N"])
        query_map = driver.tensor_map(query, (width, g.heads, self.tokens), (width * 2, g.heads * width * 2), (64, 1, 64))
        rows_map = key_map = driver.tensor_map(
            cache, (row, size, 1, g.groups, pages), (row * 2, row * 2, size * row * 2, self.page_bytes()), (64, box, 1, 1, 1))
        if g.once:
            key_map = driver.tensor_map(
                cache + 2 * size * g.groups * row, (g.key, size, pages), (g.key * 2, self.page_bytes()), (64, box, 1))
        work = Work(items, counters, len(self.items), g.heads, g.heads // g.groups, self.window, self.scale)
        kernel(
            min(blocks, len(self.items)), THREADS, query_map, rows_map, key_map,
            Prefill(work, table, output, lse, page_stride), **options)
