"""The command line against other implementations' figures, and on files cut at many places."""

import json
import os
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
APUS = os.environ.get("APUS_BINARY", str(ROOT / ".build/release/apus"))
MODEL = Path(os.environ["APUS_TEST_MODEL"])
# What transformers computes, in float32 with the file's weights, for the first four windows of 512 tokens of LICENSE.
LICENSE_PERPLEXITY = 15.916516


def apus(*arguments, stdin=b""):
    """Runs apus; returns (exit code, standard output, standard error)."""
    done = subprocess.run([APUS, *map(str, arguments)], input=stdin, capture_output=True, timeout=300, check=False)
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


class ReferenceTests(unittest.TestCase):
    def perplexity(self, *flags):
        code, out, err = apus("evaluate", MODEL, "--text", ROOT / "LICENSE", "--chunks", 4, "--json", *flags)
        self.assertEqual(code, 0, err)
        return json.loads(out)["perplexity"]

    def test_perplexity_without_rounding_is_that_of_transformers(self):
        found = self.perplexity("--precision", "float32", "--cache-type", "f32")
        self.assertAlmostEqual(found / LICENSE_PERPLEXITY, 1, delta=1e-4)

    def test_perplexity_with_rounded_activations_stays_near(self):
        self.assertAlmostEqual(self.perplexity() / LICENSE_PERPLEXITY, 1, delta=0.01)


class TokenizeTests(unittest.TestCase):
    def test_lines_come_back(self):
        lines = ["Hello, world!", "", "  two  spaces\tand a tab", "naïve 東京 🐦 1984", "end"]
        code, ids, err = apus("tokenize", MODEL, stdin="\n".join(lines).encode() + b"\n")
        self.assertEqual(code, 0, err)
        self.assertEqual(len(ids.splitlines()), len(lines))
        code, text, err = apus("tokenize", MODEL, "--decode", stdin=ids.encode())
        self.assertEqual(code, 0, err)
        self.assertEqual(text.split("\n")[: len(lines)], lines)

    def test_ids_that_are_no_ids_are_refused(self):
        for line in (b"[1, 2\n", b"[-1]\n", b"[49152]\n", b"hello\n"):
            with self.subTest(line=line):
                code, _, err = apus("tokenize", MODEL, "--decode", stdin=line)
                self.assertGreater(code, 0)
                self.assertTrue(err.strip())


class DamagedFileTests(unittest.TestCase):
    def test_truncated_models_are_refused_by_name(self):
        data = MODEL.read_bytes()
        with tempfile.TemporaryDirectory() as folder:
            for size in (0, 3, 30, 5000, len(data) // 2, len(data) - 1):
                path = Path(folder) / f"cut-{size}.gguf"
                path.write_bytes(data[:size])
                for command in (["generate", path, "x", "-n", "1"], ["inspect", path], ["logits", path, "--tokens", "1"]):
                    with self.subTest(size=size, command=command[0]):
                        code, _, err = apus(*command)
                        self.assertGreater(code, 0, err)
                        self.assertIn(path.name, err)

    def test_a_file_of_another_kind_is_refused(self):
        code, _, err = apus("generate", ROOT / "LICENSE", "x")
        self.assertGreater(code, 0)
        self.assertIn("LICENSE", err)


class HelpTests(unittest.TestCase):
    def test_every_command_has_examples(self):
        code, out, _ = apus("--help")
        self.assertEqual(code, 0)
        commands = [["generate"], ["chat"], ["tokenize"], ["logits"], ["evaluate"], ["inspect"], ["bench", "decode"]]
        for command in commands:
            with self.subTest(command=command):
                self.assertIn(command[0], out)
                code, text, _ = apus(*command, "--help")
                self.assertEqual(code, 0)
                self.assertIn("EXAMPLES", text)

    def test_unknown_flags_are_named(self):
        code, _, err = apus("generate", MODEL, "x", "--temperatur", "1")
        self.assertGreater(code, 0)
        self.assertIn("--temperatur", err)


if __name__ == "__main__":
    unittest.main()
