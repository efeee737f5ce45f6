"""`apus train` by policy gradients and DPO, as people use it: learning, resuming, and what cannot be run."""

import json
import os
import random
import shutil
import subprocess
import tempfile
import threading
import unittest
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from test_train import corpus

APUS = os.environ.get(
    "APUS_BINARY", str(Path(__file__).resolve().parents[2] / ".build" / "release" / "apus"))
PRETRAINED = """\
model: {attention: gqa, hidden_size: 32, layers: 2, heads: 4, feed_forward_width: 48}
data: {text: [TEXT], validation_fraction: 0.2, train_vocabulary: 300, sequence_length: 64, batch_size: 8}
optimizer: {learning_rate: 1e-2}
training: {steps: 40, compute: float32, evaluate_every: 0, output: OUTPUT}
"""
RECIPE = """\
task: TASK
model: {from: MODEL}
policy_gradient:
  prompts: [PROMPTS]
  validation_fraction: 0.2
  reward: ["REWARD"]
  ground_truth: ["pattern:wing"]
  prompts_per_rollout: 8
  samples: 4
  max_tokens: 10
  normalization_prompts: 8
  normalization_samples: 2
  kl: 0.01
optimizer: {learning_rate: 1e-2, weight_decay: 0}
schedule: {kind: constant, warmup_steps: 0}
training: {steps: 6, compute: float32, evaluate_every: 3, checkpoint_every: 3, log_every: 1, output: OUTPUT}
"""
DPO = """\
task: dpo
model: {from: MODEL}
data: {batch_size: 8}
policy_gradient: {pairs: [PAIRS], validation_fraction: 0.2, kl: 0.1, max_tokens: 32}
optimizer: {learning_rate: 5e-3, weight_decay: 0}
schedule: {kind: constant, warmup_steps: 0}
training: {steps: 12, compute: float32, evaluate_every: 12, log_every: 1, output: OUTPUT}
"""


class PolicyTests(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.temporary.cleanup)
        cls.folder = Path(cls.temporary.name)
        (cls.folder / "text.txt").write_text(corpus())
        recipe = cls.folder / "pretrained.yaml"
        recipe.write_text(
            PRETRAINED.replace("TEXT", str(cls.folder / "text.txt")).replace("OUTPUT", str(cls.folder / "pretrained")))
        subprocess.run([APUS, "train", recipe], check=True, capture_output=True, timeout=240)
        cls.model = cls.folder / "pretrained" / "checkpoints" / "step-00000040"
        numbers = random.Random(3)
        words = "swift apus sky roof tower evening insect nest river cloud".split()
        rows = [{"prompt": " ".join(numbers.choices(words, k=4))} for _ in range(40)]
        cls.prompts = cls.folder / "prompts.jsonl"
        cls.prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def recipe(self, name, text=RECIPE, task="rloo", reward="pattern:wing", **changes):
        for old, new in {
            "TASK": task, "REWARD": reward, "MODEL": str(self.model), "PROMPTS": str(self.prompts),
            "OUTPUT": str(self.folder / name), **changes,
        }.items():
            text = text.replace(old, new)
        path = self.folder / f"{name}.yaml"
        path.write_text(text)
        return path

    def train(self, recipe, *arguments, check=0):
        # None: any status but 0.
        result = subprocess.run(
            [APUS, "train", recipe, *arguments], capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL)
        if check is None:
            self.assertNotEqual(result.returncode, 0, result.stdout + result.stderr)
        else:
            self.assertEqual(result.returncode, check, result.stdout + result.stderr)
        return result.stdout + result.stderr

    def entries(self, name):
        lines = (self.folder / name / "log.jsonl").read_text().splitlines()
        timed = ("seconds", "tokens_per_second")
        return [
            {key: value for key, value in json.loads(line).items() if not key.endswith(timed)} for line in lines]

    def test_runs_log_what_they_do_and_resume_bit_for_bit(self):
        for task in ("rloo", "grpo", "reinforce", "ppo"):
            with self.subTest(task=task):
                self.train(self.recipe(f"whole-{task}", task=task))
                whole = self.entries(f"whole-{task}")
                keys = {key for entry in whole for key in entry}
                for key in (
                    "reward", "reward_variance_within_prompt", "reward_std_within_prompt", "zero_variance_share", "kl",
                    "entropy", "clip_share", "length", "validation_ground_truth", "validation_reward_increase",
                    "log_probability_difference_p99",
                ):
                    self.assertIn(key, keys)
                self.assertLessEqual(max(e.get("log_probability_difference_p99", 0) for e in whole), 1e-3)
                recipe = self.recipe(f"parts-{task}", task=task)
                shutil.copytree(self.folder / f"whole-{task}", self.folder / f"parts-{task}")
                shutil.rmtree(self.folder / f"parts-{task}" / "checkpoints" / "step-00000006")
                self.train(recipe, "--resume")
                self.assertEqual(self.entries(f"parts-{task}"), whole)

    def test_an_endpoint_rewards(self):
        questions = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                questions.append(question)
                if len(questions) == 30:
                    self.send_error(500, "broken")
                    return
                body = json.dumps({"rewards": [text.count("s") / 10 for text in question["outputs"]]}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        reward = f"http://127.0.0.1:{server.server_port}/score"
        # 8 prompts to normalise, 8 held out, 8 a step: the second step breaks.
        found = self.train(self.recipe("endpoint", reward=reward), check=1)
        self.assertRegex(found, r"prompt \d+: expected status 200, found 500")
        self.assertTrue((self.folder / "endpoint" / "checkpoints" / "step-00000001").exists())
        self.train(self.recipe("endpoint", reward=reward), "--resume")
        self.assertEqual(set(questions[0]), {"prompt", "messages", "outputs"})
        steps = [entry["step"] for entry in self.entries("endpoint") if "loss" in entry]
        self.assertEqual(steps, [1, 2, 3, 4, 5, 6])

    def test_a_broken_program_stops_the_run_and_names_the_prompt(self):
        program = "read -r line; exit 4"
        found = self.train(self.recipe("program", reward=f"process:{program}"), check=1)
        self.assertRegex(found, r"prompt \d+: it ended without an answer, exit status 4")

    def test_preferences_are_learnt(self):
        numbers = random.Random(4)
        rows = [
            {"prompt": f"tower {i}", "chosen": " ".join(numbers.choices(["sky", "roof"], k=4)),
             "rejected": " ".join(numbers.choices(["cloud", "nest"], k=4))} for i in range(60)]
        pairs = self.folder / "pairs.jsonl"
        pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.train(self.recipe("dpo", DPO, PAIRS=str(pairs)))
        last = self.entries("dpo")[-1]
        self.assertLess(last["validation_loss"], 0.6)
        self.assertGreater(last["validation_accuracy"], 0.9)

    def test_what_cannot_be_run_is_named(self):
        empty = self.folder / "empty.jsonl"
        empty.write_text("")
        other = self.folder / "other.yaml"
        other.write_text(
            PRETRAINED.replace("TEXT", str(self.folder / "text.txt")).replace("OUTPUT", str(self.folder / "other"))
            .replace("300", "310").replace("steps: 40", "steps: 1"))
        subprocess.run([APUS, "train", other], check=True, capture_output=True, timeout=240)
        reference = self.folder / "other" / "checkpoints" / "step-00000001"
        for changes, expected in [
            ({"PROMPTS": str(empty)}, "empty.jsonl: expected text, found none"),
            ({"reward": "length:no"}, "length:WORDS"),
            ({"samples: 4": "samples: 1"}, "at least 2 outputs of a prompt"),
            ({"max_tokens: 10": "max_tokens: 1000"}, "to fit the model's"),
            ({"kl: 0.01": f"reference: {reference}"}, "expected a reference with the policy's vocabulary of 300 tokens"),
            ({"samples: 4": "max_prompt_tokens: 1"}, "expected at least one prompt of at most 1 tokens"),
            ({"prompts_per": "prompt_per"}, "prompts_per_rollout"),
        ]:
            with self.subTest(expected=expected):
                self.assertIn(expected, self.train(self.recipe("refused", **changes), check=None))


if __name__ == "__main__":
    unittest.main()
