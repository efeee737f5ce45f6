"""The training-attention kernels, run on the CPU, against float64; and the order of their items."""

import contextlib
import io
import sys
import unittest
from pathlib import Path

import numpy

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "Benchmarks/gpu")]

import emulate
import training_attention
from attention import Case
from training_settings import Shape, backward_settings, forward_settings, items

GROUPED = Shape(heads=4, kv_heads=2, key=128, once=0, value=128)
NARROW = Shape(heads=2, kv_heads=2, key=64, once=0, value=64)
TIED = Shape(heads=2, kv_heads=1, key=48, once=48, value=96)
LATENT = Shape(heads=2, kv_heads=2, key=128, once=64, value=128)
WIDE = Shape(heads=1, kv_heads=1, key=256, once=0, value=256)

# What is written as float32 (output and gradients), what is added to.
CASES = {
    "grouped": dict(shape=GROUPED, lengths=[1, 300]),
    "latent": dict(shape=LATENT, lengths=[70, 140], gradients_float32=True, adds=True),
    "tied": dict(shape=TIED, lengths=[5, 129], float32=True, gradients_float32=True),
    "narrow": dict(shape=NARROW, lengths=[1, 130, 0, 257], poison_rows=3),
    "narrow, few keys": dict(shape=NARROW, lengths=[1, 130, 0, 257], window=100),
    "narrow, its own key": dict(shape=NARROW, lengths=[140], window=1),
    "narrow, large scores": dict(shape=NARROW, lengths=[200], gain=60.0),
    "narrow, equal scores": dict(shape=NARROW, lengths=[200], gain=0.0),
    "narrow, many": dict(shape=NARROW, lengths=[3] * 20 + [128, 64]),
}
# bf16 keeps 2e-3 of a sum of unlike terms; outputs that are bf16 are rounded once more.
FORWARD, BACKWARD = 3e-3, 5e-3


class TrainingAttention(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        found = {}
        for case in CASES.values():
            plan = Case(**case).plan
            jobs = [("attention_forward", plan.forward_definitions)]
            jobs += list(zip(("attention_backward_queries", "attention_backward_keys"), (d for d, _ in plan.backward_settings)))
            for name, definitions in jobs:
                found[name, tuple(sorted(definitions.items()))] = (name + ".cu", name, definitions)
        emulate.prepare(list(found.values()))

    def check_forward(self, case):
        error, off = case.forward_errors()
        self.assertLess(error, FORWARD)
        self.assertLess(off, 1e-4 if case.plan.float32 else 1e-3)

    def check_backward(self, case, tolerance=BACKWARD):
        for name, error in zip(("query", "key", "once", "value"), case.backward_errors()):
            self.assertLess(error, tolerance, name)
        self.assertTrue(case.untouched(), "nothing beside the gradients is written")

    def test_against_float64(self):
        for name, arguments in CASES.items():
            with self.subTest(name):
                case = Case(**arguments)
                case.run_forward()
                self.check_forward(case)
                case.run_backward()
                # Where one weight is nearly all, dS is what is left of terms that cancel.
                self.check_backward(case, 2e-2 if "large" in name else BACKWARD)

    def test_wide(self):
        case = Case(WIDE, [200])
        case.run_forward(blocks=1)
        self.check_forward(case)

    def test_late_and_shuffled(self):
        """As late as copies and products may come, in other orders of threads and by other blocks: the same bits."""
        for name in ("grouped", "narrow, few keys"):
            case = Case(**CASES[name])
            results = []
            for blocks, options in ((2, {}), (3, dict(lazy=True)), (1, dict(lazy=True, seed=7)), (2, dict(seed=8))):
                case.output.view(numpy.uint8)[...] = 255
                case.gradients.view(numpy.uint8)[...] = 255
                case.run_forward(blocks, **options)
                case.run_backward(blocks, **options)
                results.append((case.output.copy(), case.gradients.copy()))
            with self.subTest(name):
                self.check_forward(case)
                for output, gradients in results[1:]:
                    numpy.testing.assert_array_equal(output, results[0][0])
                    numpy.testing.assert_array_equal(gradients, results[0][1])

    def test_a_sequence_does_not_reach_its_neighbours(self):
        case = Case(NARROW, [70, 60, 129])
        case.memory[70:130] = 0x7FFF  # NaN
        case.gradient[70:130] = 0x7FFF
        case.run_forward()
        case.run_backward()
        for name, array in dict(output=case.output, lse=case.lse, gradients=case.gradients[:, : case.cuts[-1]]).items():
            values = emulate.from_bf16(array) if array.dtype == numpy.uint16 else array
            self.assertTrue(numpy.isfinite(values[:70]).all() and numpy.isfinite(values[130:]).all(), name)
            self.assertFalse(numpy.isfinite(values[70:130]).any(), name)

    def test_nothing_to_do(self):
        case = Case(NARROW, [0, 0])
        case.run_forward()
        case.run_backward()


class Script(unittest.TestCase):
    def test_random_cases_on_the_cpu(self):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            self.assertEqual(training_attention.main(["--emulate", "--cases", "1", "--seed", "2"]), 0)
        self.assertIn("1 of 1 random cases pass", printed.getvalue())

    def test_arguments_that_it_does_not_know(self):
        with contextlib.redirect_stderr(io.StringIO()) as printed, self.assertRaises(SystemExit):
            training_attention.main(["--case", "many"])
        self.assertIn("--case", printed.getvalue())


class Settings(unittest.TestCase):
    def test_every_row_once_and_the_longest_first(self):
        rng = numpy.random.default_rng(3)
        for _ in range(50):
            lengths = rng.choice([0, 1, 127, 128, 129, 700], rng.integers(1, 8))
            starts = numpy.concatenate([[0], numpy.cumsum(lengths)]).tolist()
            heads, window = int(rng.integers(1, 4)), int(rng.choice([1, 64, 1 << 30]))
            for of_keys in (False, True):
                found = items(starts, heads, window, of_keys, 256)
                seen = numpy.zeros((starts[-1], heads), int)
                for begin, length, row, head, padded in found[:, :5]:
                    self.assertEqual(padded % 128, 0)
                    seen[begin + row : begin + min(length, row + 128), head] += 1
                self.assertTrue((seen == 1).all())
        found = items([0, 4096], 1, 1 << 30, False, 512)[:, 2].tolist()
        self.assertEqual(found, sorted(found, reverse=True), "tiles of queries that see most")
        found = items([0, 4096], 1, 1 << 30, True, 512)[:, 2].tolist()
        self.assertEqual(found, sorted(found), "tiles of keys that are seen most")

    def test_groups_share_the_cache(self):
        found = items([0, 4096, 8192], 8, 1 << 30, False, 512)
        # 2 MiB of keys and values a head: twelve heads of a sequence fit together.
        first = {(begin, head) for begin, _, _, head, *_ in found[: 12 * 32].tolist()}
        self.assertEqual(len(first), 12)

    def test_shared_memory_suffices(self):
        for widths in [(64, 0, 64), (96, 0, 96), (128, 0, 128), (48, 48, 96), (64, 64, 128), (128, 64, 128), (192, 0, 128)]:
            shape = Shape(1, 1, *widths)
            for definitions, shared in (forward_settings(shape), *backward_settings(shape)):
                self.assertGreaterEqual(definitions["STAGES"], 2, widths)
                self.assertLessEqual(shared + 1024, 227 * 1024, widths)
        self.assertGreaterEqual(forward_settings(Shape(1, 1, 256, 0, 256))[0]["STAGES"], 2)


if __name__ == "__main__":
    unittest.main()
