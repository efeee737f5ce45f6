"""Models cut over GPUs that are none (Tests/Emulation/gpu.cpp): whole programs against one GPU of the kind, and the CPU."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import ranks
from serving import Server, in_parallel
from test_ranks import TOKENS, alone, corpus

EMULATION = ranks.ROOT / "Tests" / "Emulation"
sys.path.insert(0, str(EMULATION))

import emulate
import emulated_gpu

RECIPE = """\
model: {attention: VARIANT, hidden_size: 128, layers: 2, heads: 4, feed_forward_width: 64MORE}
data: {text: [TEXT], train_vocabulary: 301, sequence_length: 512, batch_size: 1, validation_fraction: 0.2}
training: {steps: 40, log_every: 40, output: OUTPUT, seed: 3}
"""
VARIANTS = {
    "mha": "", "mqa": "", "gqa": ", kv_heads: 2", "gta": ", kv_heads: 2, rope_width: 16",
    "mla": ", latent_width: 64, rope_width: 16", "gla": ", latent_width: 32, rope_width: 16",
}


@unittest.skipUnless(emulate.compiler(), "no C++ compiler")
class EmulatedRankTests(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = Path(cls.temporary.name)
        cls.environment = emulated_gpu.environment(ranks.ROOT / ".build" / "emulated-gpu")
        (cls.folder / "text.txt").write_text(corpus())

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def model(self, variant):
        """A model that was trained for some steps, so that few tokens are likely."""
        path = self.folder / f"{variant}.yaml"
        if not path.exists():
            text = RECIPE
            for old, new in (
                ("VARIANT", variant), ("MORE", VARIANTS[variant]), ("TEXT", self.folder / "text.txt"), ("OUTPUT", self.folder / variant),
            ):
                text = text.replace(old, str(new))
            path.write_text(text)
            result = alone("train", path, "--threads", 1)
            self.assertEqual(result.returncode, 0, result.stderr)
        return self.folder / variant / "checkpoints" / "step-00000040"

    def generate(self, model, count, **variables):
        launch = [ranks.APUS, "launch", "-n", str(count)] if count > 1 else []
        result = subprocess.run(
            [*launch, ranks.APUS, "generate", model, "--tokens", TOKENS, "-n", "12", "--ignore-eos", "--temperature", "0", "--device", "cuda"],
            capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL, env={**self.environment, **variables})
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(result.stdout)

    def check(self, model, tokens):
        """Each token is the likeliest by the CPU's logits after those before it, or as good as that in bf16."""
        found = alone("logits", model, "--tokens", TOKENS + "," + ",".join(map(str, tokens)), "--json", "--threads", 1)
        rows = json.loads(found.stdout)[-len(tokens) - 1:-1]
        for row, token in zip(rows, tokens):
            self.assertGreater(row[token], max(row) - 0.03)
            self.assertLess(sum(value > max(row) - 0.03 for value in row), 4, "logits that tell tokens apart")

    def train(self, output, count, *words):
        """Trains on emulated GPUs. Its logged losses, evaluations and norms."""
        launch = [ranks.APUS, "launch", "-n", str(count)] if count > 1 else []
        result = subprocess.run(
            [*launch, ranks.APUS, "train", self.folder / "trained.yaml", "training.device=cuda", f"training.output={output}", *map(str, words)],
            capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL, env=self.environment)
        self.assertEqual(result.returncode, 0, result.stderr)
        return self.losses(output)

    def losses(self, output):
        rows = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
        return [row[key] for row in rows for key in ("loss", "gradient_norm", "validation_loss") if key in row]

    def test_cut_models_train_as_on_one_gpu(self):
        (self.folder / "trained.yaml").write_text(f"""\
model: {{attention: gla, hidden_size: 128, layers: 1, heads: 4, feed_forward_width: 64, latent_width: 32, rope_width: 16}}
data: {{text: [{self.folder / "text.txt"}], train_vocabulary: 301, sequence_length: 64, batch_size: 2, validation_fraction: 0.2}}
training: {{steps: 2, log_every: 1, output: none, checkpoint_every: 1, seed: 3, compute: float32, peak_flops: 1e12}}
""")
        one = self.train(self.folder / "one", 1)
        # Two models, each cut over two ranks.
        output = self.folder / "cut"
        for value, expected in zip(self.train(output, 4, "--tensor-parallel", 2), one, strict=True):
            self.assertLess(abs(value - expected), 2e-4)
        # Their checkpoint goes on, cut over other ranks and on the CPU.
        for count, *words in ((2, "--tensor-parallel", 2), (1, "training.device=cpu", "--threads", 1)):
            shutil.rmtree(output / "checkpoints" / "step-00000002")
            for value, expected in zip(self.train(output, count, "--resume", *words), one, strict=True):
                self.assertLess(abs(value - expected), 1e-3, words)

    def test_every_variant_decodes_as_on_the_cpu(self):
        for variant in VARIANTS:
            model = self.model(variant)
            # Emulation takes its time: one GPU, and sums by NCCL, with one variant of each cache.
            more = ((1, {}), (2, {"APUS_RANK_SUMS": "nccl"})) if variant in ("gqa", "gla") else ()
            for count, variables in ((2, {}), *more):
                with self.subTest(variant=variant, ranks=count, **variables):
                    self.check(model, self.generate(model, count, **variables))

    def server(self, *arguments):
        server = Server(
            "--device", "cuda", "--context", 512, "--max-sequences", 4, *arguments, model=self.model("gla"),
            environment=self.environment)
        self.addCleanup(self.end, server)
        return server

    def end(self, server):
        server.process.terminate()
        server.process.wait(60)
        server.__exit__()

    def groups(self, server):
        return json.loads(server.request("GET", "/ranks")[2])["groups"]

    def wait(self, server, starts=1):
        deadline = time.monotonic() + 120
        while not all(group["ready"] and group["starts"] >= starts for group in self.groups(server)):
            self.assertLess(time.monotonic(), deadline, server.log_text())
            time.sleep(0.1)

    def question(self, prompt, **changes):
        return {"model": self.model("gla").name, "prompt": prompt, "max_tokens": 12, "temperature": 0, "ignore_eos": True, **changes}

    def test_a_server_answers_as_one_gpu_does_and_outlives_its_ranks(self):
        questions = [
            self.question("the swift sky"), self.question("river cloud " * 30), self.question("tower", logprobs=2, max_tokens=4),
            self.question("evening", seed=5, temperature=0.7),
        ]
        texts = lambda answers: [answer["choices"][0]["text"] for _, answer in answers]
        one = self.server()
        expected = texts([one.post("/v1/completions", question) for question in questions])
        server = self.server("--tensor-parallel", 2)
        self.wait(server)
        found = in_parallel(len(questions), lambda index: server.post("/v1/completions", questions[index]))
        self.assertEqual([status for status, _ in found], [200] * 4)
        self.assertEqual(texts(found), expected)

        # A rank dies while an answer is on its way.
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        self.addCleanup(connection.close)
        connection.request(
            "POST", "/v1/completions", json.dumps(self.question("wing", stream=True, max_tokens=400)), {"content-type": "application/json"})
        response = connection.getresponse()
        self.assertTrue(response.readline().startswith(b"data: "))
        os.kill(ranks.processes(server.process.pid)[1], signal.SIGKILL)
        self.assertIn(b"ranks_ended", response.read())
        self.wait(server, starts=2)
        self.assertEqual(texts([server.post("/v1/completions", questions[0])]), expected[:1])


if __name__ == "__main__":
    unittest.main()
