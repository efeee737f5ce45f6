"""`apus reward`: the theory in numbers, and reward models as teachers of a policy."""

import json
import tempfile
import unittest
from pathlib import Path

from test_commands import FIXTURES, MODEL, apus

PROMPTS = [
    {"prompt": "What is the capital of France?", "answer": "Paris"},
    {"prompt": [{"role": "user", "content": "Name three colours."}]},
]


class Theory(unittest.TestCase):
    def test_every_inequality_holds(self):
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "theory.html"
            code, out, err = apus("reward", "theory", "--instances", "20", "--report", report)
            self.assertEqual(code, 0, err)
            self.assertIn("theorem 3", out)
            self.assertIn("</html>", report.read_text())
        code, out, err = apus("reward", "theory", "--instances", "3", "--json")
        self.assertEqual(code, 0, err)
        result = json.loads(out)
        self.assertTrue(result["holds"])
        self.assertEqual([check["violations"] for check in result["inequalities"]], [0] * 8)


class Evaluation(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.prompts = Path(self.folder.name) / "prompts.jsonl"
        self.prompts.write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
        self.output = Path(self.folder.name) / "out"

    def tearDown(self):
        self.folder.cleanup()

    def evaluate(self, *arguments):
        return apus(
            "reward", "evaluate", "--policy", MODEL, "--prompts", self.prompts, "--outputs", "3", "--max-tokens", "12",
            "--resamples", "50", "--output", self.output, *arguments)

    def test_figures_follow_from_the_outputs(self):
        code, out, err = self.evaluate("--reward", "length:8", "pattern:a", "--ground-truth", "length:8")
        self.assertEqual(code, 0, err)
        self.assertIn("As teachers of this policy", out)
        result = json.loads((self.output / "evaluation.json").read_text())
        lengths = next(model for model in result["models"] if model["name"] == "length 8")
        self.assertEqual(lengths["onPolicyAccuracy"]["value"], 1)
        rewards = []
        for sample in result["samples"]:
            self.assertEqual(len(sample["outputs"]), 3)
            expected = [-abs(len(text.split()) - 8) / 8 for text in sample["outputs"]]
            self.assertEqual(sample["rewards"]["length 8"], expected)
            rewards.append(expected)
        pooled = [value for row in rewards for value in row]
        mean = sum(pooled) / 6
        total = sum((value - mean) ** 2 for value in pooled) / 6
        within = [sum((value - sum(row) / 3) ** 2 for value in row) / 2 for row in rewards]
        self.assertAlmostEqual(lengths["variance"]["value"], sum(within) / 2 / total if total else 0, places=12)
        self.assertIn("</html>", (self.output / "evaluation.html").read_text())

    def test_outputs_are_drawn_once(self):
        code, _, err = self.evaluate("--reward", "length:8")
        self.assertEqual(code, 0, err)
        self.assertIn("tokens drawn", err)
        store = self.output / "outputs.jsonl"
        first = store.read_text()
        # A torn last line is drawn again, to the same text: the draw depends on the seed and the prompt alone.
        lines = first.splitlines(keepends=True)
        store.write_text("".join(lines[:-1]) + lines[-1][:20])
        code, _, err = self.evaluate("--reward", "length:5")
        self.assertEqual(code, 0, err)
        self.assertEqual(sorted(store.read_text().splitlines()), sorted(first.splitlines()))
        code, _, err = self.evaluate("--reward", "length:5")
        self.assertNotIn("tokens drawn", err)
        code, _, err = self.evaluate("--reward", "length:5", "--temperature", "0.5")
        self.assertEqual(code, 1)
        self.assertIn("temperature", err)

    def test_bad_input_is_named(self):
        code, _, err = self.evaluate("--reward", "number")
        self.assertEqual(code, 1)
        self.assertIn("prompt 0", err)
        for reward, words in [
            (FIXTURES / "llama2", "score head"), ("pattern:(", "regular expression"), ("length:0", "length:WORDS"),
            ("/nowhere", "/nowhere"),
        ]:
            code, _, err = self.evaluate("--reward", reward)
            self.assertNotEqual(code, 0)
            self.assertIn(words, err)
        self.prompts.write_text('{"prompt": "a"}\n{"text": "b"}\n')
        code, _, err = self.evaluate("--reward", "length:5")
        self.assertEqual(code, 1)
        self.assertIn("line 2", err)
        self.prompts.write_text("")
        code, _, err = self.evaluate("--reward", "length:5")
        self.assertEqual(code, 1)
        pairs = Path(self.folder.name) / "pairs.jsonl"
        pairs.write_text('{"prompt": "a", "chosen": "b", "rejected": "b"}\n')
        self.prompts.write_text('{"prompt": "a"}\n')
        code, _, err = self.evaluate("--reward", "length:5", "--preferences", pairs)
        self.assertEqual(code, 1)
        self.assertIn("line 1", err)


if __name__ == "__main__":
    unittest.main()
