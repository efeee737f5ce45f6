"""`apus train` as people use it: runs, interruptions at any moment, resuming, and recipes that cannot be run."""

import json
import os
import random
import re
import resource
import signal
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

APUS = Path(__file__).resolve().parents[2] / ".build" / "release" / "apus"
RECIPE = """\
model: {attention: gla, hidden_size: 32, layers: 2, heads: 4, latent_width: 8, rope_width: 4, feed_forward_width: 48}
data:
  text: [TEXT]
  validation_fraction: 0.2
  train_vocabulary: 300
  sequence_length: 32
  batch_size: 4
  accumulation: 2
training: {steps: 40, compute: float32, evaluate_every: 20, checkpoint_every: 7, log_every: 1, output: OUTPUT}
"""


def corpus():
    words = "swift apus wing sky roof tower evening insect nest river cloud summer north south".split()
    numbers = random.Random(5)
    documents = []
    for _ in range(60):
        sentences = [" ".join(numbers.choices(words, k=9)).capitalize() + "." for _ in range(12)]
        documents.append(" ".join(sentences))
    return "\n\n<|endoftext|>\n\n".join(documents)


class TrainTests(unittest.TestCase):
    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.addCleanup(self.temporary.cleanup)
        self.folder = Path(self.temporary.name)
        (self.folder / "text.txt").write_text(corpus())

    def recipe(self, output, text=None, **changes):
        path = self.folder / f"{output}.yaml"
        recipe = text or RECIPE
        for old, new in changes.items():
            self.assertIn(old, recipe)
            recipe = recipe.replace(old, new)
        recipe = recipe.replace("TEXT", str(self.folder / "text.txt")).replace("OUTPUT", str(self.folder / output))
        path.write_text(recipe)
        return path

    def train(self, recipe, *arguments, check=0):
        result = subprocess.run(
            [APUS, "train", recipe, *arguments], capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL
        )
        self.assertEqual(result.returncode, check, result.stdout + result.stderr)
        return result

    def losses(self, output):
        entries = [json.loads(line) for line in (self.folder / output / "log.jsonl").read_text().splitlines()]
        return {entry["step"]: entry["loss"] for entry in entries if "loss" in entry}

    def test_a_run_killed_at_any_moment_resumes_with_the_same_losses(self):
        self.train(self.recipe("whole"))
        expected = self.losses("whole")
        self.assertEqual(sorted(expected), list(range(1, 41)))
        self.assertLess(expected[40], expected[1] - 0.5)
        recipe = self.recipe("killed")
        numbers = random.Random(11)
        kills = 0
        while kills < 6:
            process = subprocess.Popen(
                [APUS, "train", recipe, "--resume"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            # A delay after the first line of progress, so that kills fall into steps and into checkpoints.
            process.stderr.readline()
            time.sleep(numbers.uniform(0, 0.25))
            process.kill()
            process.stderr.close()
            process.wait()
            kills += 1
        self.train(recipe, "--resume")
        self.assertEqual(self.losses("killed"), expected)
        self.assertFalse([name for name in os.listdir(self.folder / "killed" / "checkpoints") if name.startswith(".")])

    def test_interrupting_writes_a_checkpoint_and_exits(self):
        recipe = self.recipe("stopped", **{"steps: 40": "steps: 100000", "evaluate_every: 20": "evaluate_every: 0"})
        process = subprocess.Popen([APUS, "train", recipe], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for line in process.stderr:
            if line.startswith("step 8/"):
                break
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 130, errors)
        self.assertIn("go on with --resume", errors)
        newest = sorted(os.listdir(self.folder / "stopped" / "checkpoints"))[-1]
        self.assertEqual(int(newest.removeprefix("step-")), max(self.losses("stopped")))

    def test_a_folder_with_a_run_is_not_written_over(self):
        recipe = self.recipe("twice", **{"steps: 40": "steps: 3"})
        self.train(recipe)
        result = self.train(recipe, check=1)
        self.assertIn("--resume", result.stderr)
        self.train(recipe, "--restart")

    def test_a_changed_recipe_says_which_keys(self):
        recipe = self.recipe("changed", **{"steps: 40": "steps: 8"})
        self.train(recipe)
        result = self.train(recipe, "model.hidden_size=64", "optimizer.clip=2", "--resume", check=1)
        self.assertIn("model.hidden_size: 32 -> 64", result.stderr)
        self.assertNotIn("optimizer.clip", result.stderr)
        result = self.train(recipe, "training.steps=10", "optimizer.clip=2", "--resume")
        self.assertIn("changed since the checkpoint: optimizer.clip: 1.0 -> 2.0", result.stderr)
        self.assertEqual(max(self.losses("changed")), 10)

    def test_recipes_that_cannot_be_run_are_refused_before_any_work(self):
        cases = [
            ({"hidden_size": "hiden_size"}, "hidden_size"),
            ({"heads: 4": "heads: 5"}, "heads"),
            ({"train_vocabulary: 300": "train_vocabulary: many"}, "train_vocabulary"),
            ({"TEXT": "/nowhere/at/all.txt"}, "/nowhere/at/all.txt"),
        ]
        for number, (change, expected) in enumerate(cases):
            result = self.train(self.recipe(f"bad{number}", **change), check=1)
            self.assertIn(expected, result.stderr)
            self.assertFalse((self.folder / f"bad{number}" / "checkpoints").exists())

    def test_empty_and_binary_text_is_refused(self):
        for name, contents in [("empty", b""), ("binary", bytes(range(256)) * 64)]:
            (self.folder / f"{name}.txt").write_bytes(contents)
            result = self.train(self.recipe(name, **{"TEXT": str(self.folder / f"{name}.txt")}), check=1)
            self.assertIn(f"{name}.txt", result.stderr)

    def test_a_full_disk_keeps_the_older_checkpoint(self):
        recipe = self.recipe("full", **{"steps: 40": "steps: 9"})
        self.train(recipe)
        checkpoints = self.folder / "full" / "checkpoints"
        before = sorted(os.listdir(checkpoints))
        self.assertEqual(before, ["step-00000007", "step-00000009"])

        def limit():
            # Writes beyond the limit fail as on a full disk, where the signal is ignored.
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

        result = subprocess.run(
            [APUS, "train", recipe, "training.steps=12", "--resume"], capture_output=True, text=True, timeout=120,
            stdin=subprocess.DEVNULL, preexec_fn=limit,
        )  # fmt: skip
        self.assertEqual(result.returncode, 1, result.stdout + result.stderr)
        self.assertIn("write the file", result.stderr)
        self.assertEqual(sorted(os.listdir(checkpoints)), before)
        self.train(recipe, "training.steps=12", "--resume")

    def test_a_comparison_is_resumed_and_drawn(self):
        recipe = self.recipe("compared", **{"steps: 40": "steps: 6", "evaluate_every: 20": "evaluate_every: 3"})
        recipe.write_text(recipe.read_text() + "compare: {attention: [gqa, gta, mla, gla], seeds: [0, 1]}\n")

        def compare(check=0):
            result = subprocess.run(
                [APUS, "compare", recipe], capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL
            )
            self.assertEqual(result.returncode, check, result.stderr)
            return result.stderr

        process = subprocess.Popen([APUS, "compare", recipe], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for line in process.stderr:
            if "(3 of 8)" in line:
                break
        process.kill()
        process.stderr.close()
        process.wait()
        errors = compare()
        self.assertEqual(errors.count("done before"), 2)
        self.assertEqual(compare().count("done before"), 8)
        report = json.loads((self.folder / "compared" / "comparison.json").read_text())
        self.assertIn("GLA-2", json.dumps(report))
        page = (self.folder / "compared" / "comparison.html").read_text()
        for name in ("GQA-2", "GTA-2", "MLA", "GLA-2"):
            self.assertIn(name, page)
        counts = [int(part) for part in re.findall(r'"parameters": ?(\d+)', json.dumps(report))]
        self.assertLess(max(counts) / min(counts), 1.05)

    def test_conversations_are_learnt_from_a_model(self):
        rows = [{"prompt": f"What is {n} plus 1?", "response": f"It is {n + 1}."} for n in range(12)]
        (self.folder / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.train(self.recipe("base", **{"steps: 40": "steps: 3"}))
        template = self.folder / "template.jinja"
        template.write_text(
            "{% for m in messages %}{{ m.role }}: {{ m.content }}<|endoftext|>{% endfor %}"
            "{% if add_generation_prompt %}assistant: {% endif %}"
        )
        recipe = self.folder / "chat.yaml"
        recipe.write_text(
            f"model: {{from: {self.folder}/base/checkpoints/step-00000003}}\n"
            f"data: {{chat: [{self.folder}/chat.jsonl], chat_template: {template}, sequence_length: 64, batch_size: 2,"
            " validation_fraction: 0.25}\n"
            f"training: {{steps: 10, compute: float32, log_every: 1, output: {self.folder}/chat}}\n"
        )
        result = self.train(recipe)
        self.assertIn("9 conversations to train on, 3 held out", result.stdout)
        losses = self.losses("chat")
        self.assertLess(losses[10], losses[1])
        self.assertTrue((self.folder / "chat/checkpoints/step-00000010/tokenizer.json").exists())
        recipe.write_text(recipe.read_text().replace("model: {", "model: {hidden_size: 8, "))
        self.assertIn("model.hidden_size", self.train(recipe, "--restart", check=1).stderr)

    def test_a_trained_model_speaks(self):
        self.train(self.recipe("speaks", **{"steps: 40": "steps: 20"}))
        result = subprocess.run(
            [APUS, "generate", self.folder / "speaks/checkpoints/step-00000020", "Swift", "--max-tokens", "8"],
            capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        self.assertEqual(result.returncode, 0, result.stderr)


if __name__ == "__main__":
    unittest.main()
