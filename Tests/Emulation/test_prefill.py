"""Prefill attention over the paged cache, run on the CPU, against float64."""

import collections
import sys
import unittest
from pathlib import Path

import numpy

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "Benchmarks/gpu")]

import emulate
from attention import relative
from emulate import aligned, from_bf16, to_bf16
from prefill_settings import PrefillPlan, prefill_settings

Geometry = collections.namedtuple("Geometry", "heads groups shared value key once")
GQA, GTA, GLA = Geometry(4, 2, 0, 64, 64, 0), Geometry(2, 1, 32, 32, 32, 1), Geometry(2, 2, 128, 0, 32, 1)


class Prefill(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        jobs = [(GQA, 16), (GQA, 256), (GTA, 64), (GLA, 8)]
        emulate.prepare([("prefill.cu", "prefill", prefill_settings(*job)[0]) for job in jobs])

    def check(self, g, page_size, new, cached, window=None, **options):
        rng = numpy.random.default_rng()
        starts = numpy.concatenate([[0], numpy.cumsum(new)]).tolist()
        plan = PrefillPlan(g, starts, cached, page_size, 0.1, window)
        used = [-(-(a + b) // page_size) for a, b in zip(new, cached)]
        order = rng.permutation(sum(used) + 1)
        table = aligned((len(new), max(used) + 1), numpy.int32, 2**30)
        cache = to_bf16(rng.standard_normal((len(order), plan.page_bytes() // 2)))
        cut = page_size * g.groups * plan.row
        cache[order[-1]] = 0x7FFF
        for b, count in enumerate(used):
            table[b, :count] = order[sum(used[:b]) : sum(used[:b]) + count]
            held = (new[b] + cached[b]) % page_size
            if held:  # whatever lies behind the end of a sequence must not matter
                page = cache[table[b, count - 1]]
                page[:cut].reshape(g.groups, page_size, plan.row)[:, held:] = 0x7FFF
                page[cut:].reshape(page_size, -1)[held:] = 0x7FFF
        query = to_bf16(rng.standard_normal((starts[-1], g.heads, g.shared + g.key)))
        output = aligned((starts[-1], g.heads, g.shared + g.value), numpy.uint16)
        lse, counters = aligned((starts[-1], g.heads), numpy.float32), aligned(2, numpy.uint32, 0)
        items = aligned(plan.items.shape, numpy.int32, plan.items)
        plan.run(
            emulate, emulate.Kernel("prefill.cu", "prefill", plan.definitions, plan.shared), query.ctypes.data,
            cache.ctypes.data, len(order), table.ctypes.data, table.shape[1], items.ctypes.data, counters.ctypes.data,
            output.ctypes.data, lse.ctypes.data, 2, **options)
        self.assertFalse(counters.any())
        for b, (count, before) in enumerate(zip(new, cached)):
            if count == 0:
                continue
            pages = from_bf16(cache)[table[b, : used[b]]].astype(numpy.float64)
            rows = pages[:, :cut].reshape(-1, g.groups, page_size, plan.row).swapaxes(1, 2).reshape(-1, g.groups, plan.row)
            rows, once = rows[: before + count], pages[:, cut:].reshape(len(pages) * page_size, -1)[: before + count]
            at = before + numpy.arange(count)[:, None]
            keys = numpy.arange(before + count)[None]
            for head in range(g.heads):
                own = rows[:, head // (g.heads // g.groups)]
                q = from_bf16(query[starts[b] : starts[b + 1], head]).astype(numpy.float64)
                key = numpy.concatenate([own[:, : g.shared], once if g.once else own[:, g.shared + g.value :]], 1)
                s = numpy.where((keys <= at) & (keys > at - plan.window), q @ key.T * plan.scale, -numpy.inf)
                exact = numpy.log(numpy.exp(s).sum(1))
                expected = numpy.exp(s - exact[:, None]) @ own[:, : g.shared + g.value]
                place = slice(starts[b], starts[b + 1]), head
                self.assertLess(relative(from_bf16(output[place]), expected), 4e-3, (b, head))
                numpy.testing.assert_allclose(lse[place], exact, atol=1e-4)

    def test_grouped(self):
        self.check(GQA, 16, [1, 140, 0, 33], [70, 3, 5, 200])
        self.check(GQA, 16, [130, 20], [0, 77], window=50, lazy=True, seed=4)

    def test_large_pages(self):
        self.check(GQA, 256, [150], [260], lazy=True)

    def test_tied(self):
        self.check(GTA, 64, [5, 200], [130, 1], seed=2)

    def test_latent(self):
        self.check(GLA, 8, [90, 3], [21, 64], lazy=True, seed=1)

    def test_what_it_does_not_take(self):
        for geometry, page_size in ((GQA, 1), (Geometry(8, 1, 512, 0, 64, 1), 64)):
            with self.assertRaisesRegex(ValueError, "prefill takes"):
                prefill_settings(geometry, page_size)


if __name__ == "__main__":
    unittest.main()
