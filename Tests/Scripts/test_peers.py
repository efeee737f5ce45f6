"""Tests of Benchmarks/peers.py with stand-ins for apus and llama.cpp that print known figures."""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

DRIVER = Path(__file__).resolve().parents[2] / "Benchmarks" / "peers.py"

APUS = """
print('[{"prompt": 512, "generate": 0, "batch": 1, "tokensPerSecond": 300.0},'
      ' {"prompt": 0, "generate": 128, "batch": 1, "tokensPerSecond": 80.0}]')
"""
BENCH = """
print('[{"n_prompt": 512, "n_gen": 0, "avg_ts": 100.0}, {"n_prompt": 0, "n_gen": 128, "avg_ts": 160.0}]')
"""
BATCHED = """
print('a line that is not JSON')
print('{"pp": 128, "tg": 128, "pl": 16, "speed_pp": 150.0, "speed_tg": 40.0}')
"""


class PeersTests(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        self.stand_in("apus", APUS)
        self.stand_in("llama-bench", BENCH)
        self.stand_in("llama-batched-bench", BATCHED)

    def stand_in(self, name, source):
        path = self.folder / name
        path.write_text(f"#!{sys.executable}\n{source}")
        path.chmod(0o755)

    def drive(self, *arguments):
        report = self.folder / "report.json"
        result = subprocess.run(
            [sys.executable, DRIVER, "--apus", self.folder / "apus", "--repeats", "2", "--json", report, *arguments, "model.gguf"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return result, json.loads(report.read_text()) if report.exists() else None

    def test_ratios_are_ours_over_the_peers(self):
        result, report = self.drive("--peer", self.folder)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual([row["kind"] for row in report["rates"]], ["prompt", "generation"])
        self.assertEqual([row["ratio"] for row in report["rates"]], [3.0, 0.5])
        self.assertGreater(report["footprints"][0]["peakMegabytes"], 1)

    def test_more_than_one_sequence_uses_the_batched_peer(self):
        _, report = self.drive("--peer", self.folder, "--batch", "16", "--no-footprint")
        self.assertEqual([row["ratio"] for row in report["rates"]], [2.0, 2.0])

    def test_without_a_peer_there_is_no_ratio(self):
        result, report = self.drive("--no-footprint")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertNotIn("ratio", report["rates"][0])

    def test_a_program_that_fails_is_an_error(self):
        self.stand_in("apus", "import sys; sys.exit('no such model')")
        result, report = self.drive("--no-footprint")
        self.assertEqual(result.returncode, 1)
        self.assertIn("no such model", result.stderr)
        self.assertIsNone(report)


if __name__ == "__main__":
    unittest.main()
