"""apus plan serve and apus plan train, and the calibration that apus bench steps writes for them."""

import html.parser
import json
import os
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
APUS = os.environ.get("APUS_BINARY", str(ROOT / ".build/release/apus"))
MODEL = os.environ["APUS_TEST_MODEL"]
CODER = ["--shape", "deepseek-coder-v2", "--weights", "f8e4m3"]


def apus(*arguments):
    """Runs apus; returns (exit code, standard output, standard error)."""
    done = subprocess.run([APUS, *map(str, arguments)], capture_output=True, timeout=300, check=False)
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


def plan(*arguments):
    code, out, err = apus("plan", *arguments, "--json")
    if code != 0:
        raise AssertionError(err)
    return json.loads(out)


class Page(html.parser.HTMLParser):
    """Collects what a page refers to, and how many drawings it has."""

    def __init__(self, text):
        super().__init__()
        self.references, self.drawings, self.open = [], 0, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.references += [value for name, value in attributes if name in ("src", "href")]
        self.drawings += tag == "svg"
        if tag not in ("meta", "line", "circle", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass


class Serving(unittest.TestCase):
    def test_latent_heads_shard_without_copies(self):
        mla = plan("serve", *CODER, "--tp", 8, "--no-simulation")
        gla = plan("serve", *CODER, "--variant", "gla", "--latent-heads", 8, "--latent-width", 256, "--tp", 8, "--no-simulation")
        self.assertEqual((mla["attention"], gla["attention"]), ("MLA", "GLA-8"))
        self.assertEqual((mla["duplication"], gla["duplication"]), (8, 1))
        self.assertEqual((mla["cacheBytesPerToken"], gla["cacheBytesPerToken"]), (60 * 576 * 2, 60 * 320 * 2))
        self.assertGreater(gla["largestBatch"], 1.7 * mla["largestBatch"])
        self.assertEqual(mla["runs"], [])

    def test_loads_are_simulated_one_after_another(self):
        found = plan("serve", *CODER, "--tp", 2, "--dp", 4, "--prompt", 512, "--generate", 64, "--requests", 96,
                     "--concurrency", 4, "--concurrency", 32)  # fmt: skip
        self.assertTrue(found["sharesFeedForward"])
        few, many = found["runs"]
        self.assertEqual((few["concurrency"], many["concurrency"]), (4, 32))
        self.assertGreater(many["output_throughput"], 2 * few["output_throughput"])
        self.assertLess(few["median_itl_ms"], many["median_itl_ms"])
        for run in found["runs"]:
            self.assertEqual(run["total_output_tokens"], 96 * 64)
            self.assertLessEqual(run["median_ttft_ms"], run["p99_ttft_ms"])

    def test_a_page_needs_nothing_but_itself(self):
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "plan.html"
            code, out, err = apus("plan", "serve", *CODER, "--tp", 8, "--requests", 64, "--prompt", "100:3000", "--generate",
                                  256, "--concurrency", 8, "--concurrency", 16, "--html", path)  # fmt: skip
            self.assertEqual(code, 0, err)
            self.assertIn("bound by", out)
            page = Page(path.read_text())
        self.assertEqual(page.references, [])
        self.assertEqual(page.open, [])
        self.assertEqual(page.drawings, 1 + 4 + 2)

    def test_a_calibration_takes_the_place_of_the_roofline(self):
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "calibration.json"
            code, _, err = apus("bench", "steps", MODEL, "--passes", 1, "--output", file)
            self.assertEqual(code, 0, err)
            times = {point["rows"]: point["seconds"] for point in json.loads(file.read_text())["layers"]}
            self.assertGreater(times[512], times[64])
            flags = ["--calibration", file, "--prompt", 64, "--generate", 32, "--requests", 8]
            found = plan("serve", MODEL, *flags, "--device", "h100", "--concurrency", 4)
            self.assertTrue(found["isCalibrated"])
            self.assertGreater(found["runs"][0]["median_itl_ms"], 1000 * times[4] / 2)
            for more, word in [(["--tp", 3], "single devices"), (["--shape", "llama-3-8b"], "expected a model or --shape")]:
                code, _, err = apus("plan", "serve", MODEL, *flags, *more, "--device", "h100")
                self.assertNotEqual(code, 0)
                self.assertIn(word, err)
            code, _, err = apus("plan", "serve", "--shape", "llama-3-8b", *flags, "--device", "h100")
            self.assertIn("8030261248 parameters", err)
            file.write_text(file.read_text()[:200])
            code, _, err = apus("plan", "serve", MODEL, *flags, "--device", "h100")
            self.assertNotEqual(code, 0)
            self.assertIn("calibration.json", err)

    def test_this_machine_is_a_device(self):
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "machine.json"
            code, out, err = apus("doctor", "--json")
            self.assertEqual(code, 0, err)
            cpu = json.loads(out)["cpu"]
            for rate in ("readBytesPerSecond", "f32OperationsPerSecond", "bf16OperationsPerSecond", "packedOperationsPerSecond"):
                self.assertGreater(cpu[rate], 1e8)
            file.write_text(json.dumps({"cpu": cpu, "gpus": []}))
            found = plan("serve", MODEL, "--device", file, "--prompt", 64, "--generate", 32, "--requests", 8)
            self.assertIn("CPU", found["device"])
            self.assertEqual(found["weights"], "q4_1")
            least = found["weightBytes"] / cpu["readBytesPerSecond"]
            self.assertGreater(found["runs"][0]["median_itl_ms"], 1000 * least / 2)

    def test_what_is_wrong_is_named(self):
        for arguments, word in [
            ([MODEL, "--tp", 2], "9 query heads"),
            ([*CODER], "device memory"),
            (["--shape", "gpt-5"], "deepseek-coder-v2"),
            ([*CODER, "--tp", 8, "--device", "z80"], "h100"),
            ([*CODER, "--tp", 8, "--concurrency", 0], "--concurrency"),
            ([*CODER, "--tp", 8, "--prompt", "9:3"], "--prompt"),
            ([*CODER, "--tp", 8, "--weights", "f9"], "--weights"),
            ([*CODER, "--tp", 8, "--prompt", 4000000], "cache"),
            (["--layers", 2], "--hidden"),
            (["/nowhere/model"], "/nowhere/model"),
        ]:
            with self.subTest(arguments=arguments):
                code, out, err = apus("plan", "serve", *arguments)
                self.assertNotEqual(code, 0)
                self.assertIn(word, err)
                self.assertEqual(out, "")


class Training(unittest.TestCase):
    def test_state_is_counted_and_shared(self):
        one = plan("train", "--shape", "llama-3-8b", "--dp", 8, "--batch", 8)
        zero = plan("train", "--shape", "llama-3-8b", "--dp", 8, "--batch", 8, "--zero")
        self.assertAlmostEqual(one["memoryBytes"]["moments"], 8 * one["parameters"])
        self.assertAlmostEqual(zero["memoryBytes"]["moments"], one["parameters"])
        self.assertFalse(one["fits"])
        self.assertGreater(one["tokensPerSecond"], 0)
        code, out, _ = apus("plan", "train", "--shape", "llama-3-8b", "--dp", 8, "--batch", 8)
        self.assertEqual(code, 0)
        self.assertIn("does not fit", out)

    def test_uneven_batches_are_named(self):
        code, _, err = apus("plan", "train", "--shape", "llama-3-8b", "--dp", 3, "--batch", 8)
        self.assertNotEqual(code, 0)
        self.assertIn("batch", err)


if __name__ == "__main__":
    unittest.main()
