"""Scripts/unittests.py on folders of small tests."""

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "Scripts" / "unittests.py"
MODULE = """\
import unittest
import HELPER


class Case(unittest.TestCase):
    def test_it(self):
        self.assertEqual(HELPER.value, VALUE)
"""


class UnittestsTests(unittest.TestCase):
    def run_on(self, **modules):
        with tempfile.TemporaryDirectory() as temporary:
            (Path(temporary) / "helper.py").write_text("value = 1\n")
            folder = Path(temporary) / "tests"
            folder.mkdir()
            for name, value in modules.items():
                (folder / f"test_{name}.py").write_text(MODULE.replace("HELPER", "helper").replace("VALUE", str(value)))
            return subprocess.run(
                [sys.executable, SCRIPT, folder], cwd=temporary, env={**os.environ, "PYTHONPATH": "."}, capture_output=True, text=True)

    def test_all_pass(self):
        done = self.run_on(first=1, second=1, third=1)
        self.assertEqual(done.returncode, 0, done.stderr)
        for name in ("first", "second", "third"):
            self.assertIn(f"test_{name}.py: ok", done.stdout)

    def test_what_fails_is_named(self):
        done = self.run_on(first=1, second=2)
        self.assertEqual(done.returncode, 1)
        self.assertIn("FAILED: test_second.py", done.stderr)
        self.assertIn("AssertionError: 1 != 2", done.stdout)
        self.assertIn("test_first.py: ok", done.stdout)

    def test_no_tests(self):
        done = self.run_on()
        self.assertEqual(done.returncode, 1)
        self.assertIn("expected tests, found none", done.stderr)


if __name__ == "__main__":
    unittest.main()
