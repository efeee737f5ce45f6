"""The command line as a person uses it: the built binary on the embedded model and on the model fixtures."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
APUS = os.environ.get("APUS_BINARY", str(ROOT / ".build/release/apus"))
MODEL = os.environ["APUS_TEST_MODEL"]
FIXTURES = ROOT / "Tests/Fixtures/models"


def apus(*arguments, stdin=b"", timeout=120, **options):
    """Runs apus; returns (exit code, standard output, standard error)."""
    done = subprocess.run(
        [APUS, *map(str, arguments)], input=stdin, capture_output=True, timeout=timeout, check=False, **options)
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


class Generating(unittest.TestCase):
    def test_answers_and_reports_figures(self):
        # Without rounding: the two likeliest first tokens are closer than the default's rounding.
        code, out, err = apus(
            "generate", MODEL, "What is the capital of France?", "-n", "24", "--precision", "float32", "--cache-type", "f32")
        self.assertEqual(code, 0, err)
        self.assertIn("Paris", out)
        for figure in ("tokens/s", "first token after", "peak memory"):
            self.assertIn(figure, err)

    def test_prompt_from_standard_input(self):
        code, out, _ = apus("generate", MODEL, "-n", "8", "--quiet", stdin=b"Say hello.")
        self.assertEqual(code, 0)
        self.assertTrue(out.strip())

    def test_same_seed_same_text(self):
        def run(seed):
            return apus("generate", MODEL, "Once", "--raw", "-n", "16", "--temperature", "1", "--seed", seed, "--quiet")[1]

        self.assertEqual(run(7), run(7))
        self.assertNotEqual(run(7), run(8))

    def test_stop_string_and_json(self):
        code, out, err = apus(
            "generate", MODEL, "Count: one two three", "-n", "32", "--stop", "e", "--logprobs", "2", "--json")
        self.assertEqual(code, 0, err)
        answer = json.loads(out)
        self.assertNotIn("e", answer["text"])
        self.assertEqual(answer["finishReason"], "stop")
        for entry in answer["logprobs"]:
            self.assertEqual(len(entry["alternatives"]), 2)
            self.assertLessEqual(entry["logprob"], 0)
            self.assertAlmostEqual(entry["alternatives"][0][1], entry["logprob"], places=5)

    def test_interrupt_stops_the_answer(self):
        child = subprocess.Popen(
            [APUS, "generate", MODEL, "Tell a very long story.", "-n", "3000", "--ignore-eos"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        child.stdout.read(20)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=20)
        self.assertEqual(child.returncode, 130)
        self.assertIn(b"ended by cancelled", err)


class Chatting(unittest.TestCase):
    def test_history_is_kept_and_forgotten(self):
        code, out, err = apus(
            "chat", MODEL, "-n", "24", stdin=b"My name is Ada.\nSay one word.\n/history\n/undo\n/history\n/clear\n/history\n")
        self.assertEqual(code, 0, err)
        self.assertEqual(out.count("user: My name is Ada."), 2)
        self.assertEqual(out.count("user: Say one word."), 1)

    def test_interrupt_keeps_the_chat(self):
        child = subprocess.Popen(
            [APUS, "chat", MODEL, "-n", "3000", "--ignore-eos"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        child.stdin.write(b"Tell a long story.\n")
        child.stdin.flush()
        child.stdout.read(20)
        child.send_signal(signal.SIGINT)
        time.sleep(1)
        out, err = child.communicate(b"/history\n", timeout=20)
        self.assertEqual(child.returncode, 0, err)
        self.assertIn(b"[cancelled]", out)
        self.assertIn(b"user: Tell a long story.", out)


class Porting(unittest.TestCase):
    def test_logits_are_positions_by_vocabulary(self):
        code, out, err = apus("logits", FIXTURES / "llama2", "--tokens", "1,2,3", "--json")
        self.assertEqual(code, 0, err)
        rows = json.loads(out)
        self.assertEqual([len(row) for row in rows], [67, 67, 67])

    def test_reward_head_prints_its_score(self):
        code, out, err = apus("logits", FIXTURES / "llama-reward", "--tokens", "1,2,3", "--json")
        self.assertEqual(code, 0, err)
        self.assertEqual([len(row) for row in json.loads(out)], [1])

    def test_bench_prints_an_object_a_row(self):
        code, out, err = apus(
            "bench", "decode", FIXTURES / "llama2", "--prompt", "8", "--generate", "4", "--repeats", "2", "--json")
        self.assertEqual(code, 0, err)
        rows = json.loads(out)
        self.assertEqual([(row["prompt"], row["generate"], row["batch"]) for row in rows], [(8, 0, 1), (0, 4, 1)])
        self.assertTrue(all(row["tokensPerSecond"] > 0 for row in rows))


class BadInput(unittest.TestCase):
    def fails(self, *arguments, stdin=b"", says, code=None):
        found, out, err = apus(*arguments, stdin=stdin)
        self.assertNotEqual(found, 0)
        self.assertGreater(found, 0, f"ended by signal {-found}: {err}")
        if code is not None:
            self.assertEqual(found, code)
        for word in says:
            self.assertIn(word, err)

    def test_prompt_longer_than_the_context(self):
        self.fails("generate", MODEL, "word " * 300, "--context", "128", says=["context", "128"])

    def test_no_utf8_on_standard_input(self):
        self.fails("generate", MODEL, stdin=b"abc\xff\xfe", says=["UTF-8", "offset 3"])

    def test_files_that_are_no_models(self):
        self.fails("generate", "/nonexistent.gguf", "x", says=["/nonexistent.gguf"])
        with tempfile.TemporaryDirectory() as folder:
            empty = Path(folder) / "empty.gguf"
            empty.write_bytes(b"")
            self.fails("generate", empty, "x", says=["empty.gguf"])
            cut = Path(folder) / "cut.gguf"
            cut.write_bytes(Path(MODEL).read_bytes()[:1 << 20])
            self.fails("generate", cut, "x", says=["cut.gguf"])

    def test_parameters_out_of_range(self):
        for flag, value, word in [
            ("--temperature", "-1", "temperature"), ("--top-p", "0", "top-p"), ("--min-p", "2", "min-p"),
            ("--threads", "0", "threads"), ("--cache-type", "q3", "q3"), ("--precision", "f12", "f12"),
        ]:
            self.fails("generate", MODEL, "x", f"{flag}={value}", says=[word])

    def test_a_missing_gpu_is_named(self):
        for command in (["generate", MODEL, "Hello"], ["generate", MODEL, "--tokens", "1,2"], ["chat", MODEL]):
            code, _, err = apus(*command, "--device", "cuda", "-n", "2")
            if code == 0:
                self.skipTest("this machine has a GPU")
            self.assertEqual(code, 1, err)
            self.assertRegex(err, "libcuda|GPU")
        self.assertIn("q8_0", apus("generate", MODEL, "Hello", "--device", "cuda", "--cache-type", "q8_0")[2])

    def test_tokens_outside_the_vocabulary(self):
        self.fails("logits", FIXTURES / "llama2", "--tokens", "1,67", "--json", says=["67", "vocabulary"])
        self.fails("logits", FIXTURES / "llama2", "--tokens", "1,x", says=["1,x", "tokens"])

    def test_text_too_short_to_score(self):
        with tempfile.NamedTemporaryFile() as text:
            text.write(b"too short")
            text.flush()
            self.fails("evaluate", MODEL, "--text", text.name, says=["1024"])

    def test_full_disk(self):
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [APUS, "generate", MODEL, "Hello", "-n", "8"], stdout=full, stderr=subprocess.PIPE, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"No space left", done.stderr)


if __name__ == "__main__":
    sys.exit(unittest.main())
