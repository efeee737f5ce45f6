"""Ranks: collectives over Open MPI and MPICH, and what happens when one of them fails."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

import ranks

LAUNCHERS = ranks.launchers()


@unittest.skipUnless(LAUNCHERS, "no mpirun.openmpi or mpirun.mpich (Debian: openmpi-bin, mpich)")
class CollectiveTests(unittest.TestCase):
    def test_collectives_give_what_they_must(self):
        for launcher in LAUNCHERS:
            for size in (2, 4):
                with self.subTest(launcher=launcher, ranks=size):
                    # Four ranks of MPICH on two cores wait for each other's time slices: thousands of small sums take minutes.
                    only = ["--only", "collectives"] if (launcher, size) == ("mpich", 4) else []
                    result = ranks.run(launcher, size, "check", "ranks", "--json", *only)
                    self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
                    found = json.loads(result.stdout)
                    self.assertEqual(found["ranks"], size)
                    self.assertGreater(found["cases"], 100)
                    shared = {
                        what: [model["attention"] for model in found["training"] if model["sharing"] == what]
                        for what in ("batches", "model")}
                    self.assertEqual(shared["batches"], [] if only else ["gqa", "gla"])
                    self.assertEqual(shared["model"], [] if only else ["mha", "mqa", "gqa", "gta", "mla", "gla", "gla_q"])
                    for model in found["training"]:
                        self.assertLess(model["lossDifference"], 1e-3)
                        self.assertLess(model["momentDifference"], 1e-3)
                    self.assertIn({"openmpi": "Open MPI", "mpich": "MPICH"}[launcher], found["transport"])

    def test_a_process_alone_needs_no_mpi(self):
        result = subprocess.run([ranks.APUS, "check", "ranks"], capture_output=True, text=True, timeout=60)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("1 ranks over one process", result.stdout)


class LaunchTests(unittest.TestCase):
    """apus launch: processes with the environment of ranks."""

    def launch(self, count, script, **options):
        return subprocess.run(
            [ranks.APUS, "launch", "-n", str(count), "sh", "-c", script], capture_output=True, text=True, timeout=60, **options)

    def test_ranks_know_each_other(self):
        result = self.launch(
            3, 'echo "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT"', env=ranks.environment(RANK=7, WORLD_SIZE=9))
        self.assertEqual(result.returncode, 0, result.stderr)
        found = sorted(line.split() for line in result.stdout.splitlines())
        self.assertEqual([line[:4] for line in found], [[str(rank), str(rank), "3", "127.0.0.1"] for rank in range(3)])
        self.assertEqual(len({line[4] for line in found}), 1)

    def test_the_first_has_the_input(self):
        result = self.launch(2, 'read line; echo "$RANK got $line"', input="something\n")
        self.assertEqual(sorted(result.stdout.splitlines()), ["0 got something", "1 got "])

    def test_an_error_of_one_ends_all(self):
        start = time.monotonic()
        result = self.launch(3, '[ "$RANK" = 1 ] && exit 5; exec sleep 300')
        self.assertEqual(result.returncode, 5)
        self.assertLess(time.monotonic() - start, 30)
        self.assertEqual(self.launch(2, '[ "$RANK" = 1 ] && kill -9 $$; exit 0').returncode, 137)

    def test_it_hands_on_sigterm(self):
        process = subprocess.Popen(
            [ranks.APUS, "launch", "-n", "2", "sh", "-c", "trap 'echo told; exit 3' TERM; echo up; while :; do sleep 0.1; done"],
            stdout=subprocess.PIPE, text=True)
        self.assertEqual([process.stdout.readline() for _ in range(2)], ["up\n"] * 2)
        process.terminate()
        self.assertEqual(process.communicate(timeout=30)[0], "told\n" * 2)
        self.assertEqual(process.returncode, 3)

    def test_what_cannot_be_started_is_named(self):
        result = subprocess.run([ranks.APUS, "launch", "-n", "2", "no-such-program"], capture_output=True, text=True, timeout=60)
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("no-such-program", result.stderr)

    def test_ranks_on_cpus_are_told_to_use_mpi(self):
        result = subprocess.run(
            [ranks.APUS, "launch", "-n", "2", ranks.APUS, "check", "ranks"], capture_output=True, text=True, timeout=60)
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("start them with mpirun", result.stderr)


@unittest.skipUnless(LAUNCHERS, "no mpirun.openmpi or mpirun.mpich (Debian: openmpi-bin, mpich)")
class FaultTests(unittest.TestCase):
    def fault(self, launcher, kind, rank, **variables):
        start = time.monotonic()
        result = ranks.run(
            launcher, 2, "check", "ranks", "--fault", kind, "--rank", rank, APUS_RANK_TIMEOUT=4, **variables)
        self.assertNotEqual(result.returncode, 0)
        self.assertLess(time.monotonic() - start, 30)
        return result.stderr + result.stdout

    def test_a_rank_that_dies_is_named(self):
        for launcher in LAUNCHERS:
            for rank in (0, 1):
                with self.subTest(launcher=launcher, rank=rank):
                    self.assertRegex(self.fault(launcher, "die", rank), f"[Rr]ank {rank}\\b")

    def test_a_rank_that_is_stopped_is_named(self):
        for launcher in LAUNCHERS:
            with self.subTest(launcher=launcher):
                self.assertRegex(self.fault(launcher, "stop", 1), r"the job ends: rank 1 \(.*\) is silent for \d+ s")

    def test_a_rank_that_is_late_is_named(self):
        for launcher in LAUNCHERS:
            with self.subTest(launcher=launcher):
                self.assertRegex(
                    self.fault(launcher, "late", 1),
                    r"the job ends: rank 1 \(.*\) did not come to the all-gather numbered \d+, for which rank 0 has waited")

    def test_a_rank_that_fails_says_why(self):
        for launcher in LAUNCHERS:
            with self.subTest(launcher=launcher):
                self.assertRegex(self.fault(launcher, "fail", 1), r"the job ends: rank 1 \(.*\): a fault was asked for")

    def test_another_build_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            other = Path(folder) / "apus"
            shutil.copy(ranks.APUS, other)
            with open(other, "ab") as file:
                file.write(b"another build")
            for launcher in LAUNCHERS:
                with self.subTest(launcher=launcher):
                    line = ranks.line(launcher, 1, "check", "ranks") + [":", "-n", "1", other, "check", "ranks"]
                    result = subprocess.run(line, capture_output=True, text=True, timeout=60, env=os.environ)
                    self.assertNotEqual(result.returncode, 0)
                    self.assertRegex(
                        result.stderr, r"apus's version: expected the same on all ranks, found .* on rank [01]; .* on rank [01]")

    def test_a_library_that_is_not_the_launchers_is_named(self):
        if len(LAUNCHERS) < 2:
            self.skipTest("needs Open MPI and MPICH")
        result = ranks.run("openmpi", 2, "check", "ranks", APUS_MPI_LIBRARY="libmpich.so.12")
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("the library is not the launcher's", result.stderr)
        result = ranks.run("openmpi", 2, "check", "ranks", APUS_MPI_LIBRARY="/nowhere/libmpi.so")
        self.assertIn("found none that loads", result.stderr)

    def test_ranks_by_variables_need_mpi(self):
        result = subprocess.run(
            [ranks.APUS, "check", "ranks"], capture_output=True, text=True, timeout=60,
            env=ranks.environment(RANK=0, WORLD_SIZE=2, MASTER_ADDR="127.0.0.1", MASTER_PORT=29511))
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("start them with mpirun", result.stderr)


RECIPE = """\
model: {attention: VARIANT, hidden_size: 32, layers: 2, heads: 4, feed_forward_width: 48MORE}
data: {text: [TEXT], train_vocabulary: 300, sequence_length: 32, batch_size: 4, validation_fraction: 0.2}
training: {steps: STEPS, compute: float32, log_every: 1, output: OUTPUT, seed: 3}
"""
VARIANTS = {
    "mha": "", "mqa": "", "gqa": ", kv_heads: 2", "gta": ", kv_heads: 2, rope_width: 4",
    "mla": ", latent_width: 8, rope_width: 4", "gla": ", latent_width: 8, rope_width: 4",
}
FIXTURES = Path(__file__).resolve().parents[1] / "Fixtures" / "models"
TOKENS = ",".join(str(3 + 5 * index % 23) for index in range(24))


def corpus():
    words = "swift apus wing sky roof tower evening insect nest river cloud summer north south".split()
    numbers = random.Random(5)
    documents = [" ".join(numbers.choices(words, k=90)) for _ in range(60)]
    return "\n\n<|endoftext|>\n\n".join(documents)


def recipe(folder, variant, output, steps=1):
    (folder / "text.txt").write_text(corpus())
    text = RECIPE
    for old, new in (
        ("VARIANT", variant), ("MORE", VARIANTS[variant]), ("TEXT", folder / "text.txt"), ("STEPS", steps),
        ("OUTPUT", folder / output),
    ):
        text = text.replace(old, str(new))
    path = folder / f"{output}.yaml"
    path.write_text(text)
    return path


def alone(*arguments):
    return subprocess.run(
        [ranks.APUS, *map(str, arguments)], capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL)


@unittest.skipUnless(LAUNCHERS, "no mpirun.openmpi or mpirun.mpich (Debian: openmpi-bin, mpich)")
class TensorParallelTests(unittest.TestCase):
    """Models of every variant, cut over ranks by mpirun, against one process."""

    def compare(self, model, sizes):
        expected = alone("logits", model, "--tokens", TOKENS, "--json", "--threads", 1)
        self.assertEqual(expected.returncode, 0, expected.stderr)
        expected = json.loads(expected.stdout)
        greedy = alone("generate", model, "--tokens", TOKENS, "-n", 16, "--ignore-eos", "--threads", 1)
        for size in sizes:
            launcher = LAUNCHERS[size % len(LAUNCHERS)]
            with self.subTest(model=Path(model).name, ranks=size, launcher=launcher):
                cut = ("--tensor-parallel", size, "--threads", 1)
                found = ranks.run(launcher, size, "logits", model, "--tokens", TOKENS, "--json", *cut)
                self.assertEqual(found.returncode, 0, found.stderr)
                rows = json.loads(found.stdout)
                error = sum((a - b) ** 2 for x, y in zip(rows, expected) for a, b in zip(x, y)) ** 0.5
                norm = sum(b**2 for y in expected for b in y) ** 0.5
                self.assertLessEqual(error, 1e-4 * norm)
                found = ranks.run(
                    launcher, size, "generate", model, "--tokens", TOKENS, "-n", 16, "--ignore-eos", *cut)
                self.assertEqual(found.stdout, greedy.stdout, found.stderr)

    def test_every_variant(self):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for variant in VARIANTS:
                result = alone("train", recipe(folder, variant, variant), "--threads", 1)
                self.assertEqual(result.returncode, 0, result.stderr)
                self.compare(folder / variant / "checkpoints" / "step-00000001", (2, 4))

    def test_families(self):
        for name in ("deepseek-v3", "minicpm3", "qwen3"):
            self.compare(FIXTURES / name, (2,))

    def test_copies_of_groups_are_reported(self):
        result = ranks.run(LAUNCHERS[0], 4, "logits", FIXTURES / "qwen3", "--tokens", "1,2", "--threads", 1)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("2 cache groups over 4 ranks: each is kept 2 times", result.stderr)

    def test_what_does_not_divide_is_an_error(self):
        result = ranks.run(LAUNCHERS[0], 2, "logits", FIXTURES / "smollm2", "--tokens", "1,2")
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("expected a divisor of 9 query heads, found 2 ranks", result.stderr)
        result = alone("logits", FIXTURES / "qwen3", "--tokens", "1,2", "--tensor-parallel", 2)
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("expected as many ranks, found 1", result.stderr)

    def test_bytes_a_token_equal_the_formula(self):
        result = ranks.run(
            LAUNCHERS[0], 2, "bench", "decode", FIXTURES / "qwen3", "--prompt", 16, "--generate", 4, "--batch", 3,
            "--repeats", 1, "--json", "--threads", 1)
        self.assertEqual(result.returncode, 0, result.stderr)
        rows = json.loads(result.stdout)
        self.assertEqual(len(rows), 2)
        for row in rows:
            self.assertEqual(row["communicationBytesPerToken"], row["expectedCommunicationBytesPerToken"])
        config = json.loads((FIXTURES / "qwen3" / "config.json").read_text())
        sums = 1 + 2 * config["num_hidden_layers"]
        # The vocabulary of 67 is gathered in two parts of 34.
        self.assertEqual(rows[1]["communicationBytesPerToken"], 4 * (sums * config["hidden_size"] + 68))


@unittest.skipUnless(LAUNCHERS, "no mpirun.openmpi or mpirun.mpich (Debian: openmpi-bin, mpich)")
class TrainingTests(unittest.TestCase):
    """Training over ranks by mpirun, against one process."""

    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.addCleanup(self.temporary.cleanup)
        self.folder = Path(self.temporary.name)

    def losses(self, output):
        rows = [json.loads(line) for line in (self.folder / output / "log.jsonl").read_text().splitlines()]
        return [row["loss"] for row in rows if "loss" in row], [
            row["validation_loss"] for row in rows if "validation_loss" in row]

    def train(self, variant, output, size=1, cut=1, steps=50, *settings):
        path = recipe(self.folder, variant, output, steps)
        arguments = ("train", path, "--threads", 1, *settings)
        if size == 1:
            result = alone(*arguments)
        else:
            result = ranks.run(
                LAUNCHERS[size % len(LAUNCHERS)], size, *arguments, "--tensor-parallel", cut, timeout=600)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        return self.losses(output)

    def test_losses_equal_those_of_one_process(self):
        for variant in VARIANTS:
            expected = self.train(variant, variant)
            self.assertEqual(len(expected[0]), 50)
            self.assertLess(expected[0][-1], expected[0][0] - 0.5)
            four = ((4, 2),) if variant in ("gqa", "gla") else ()
            for size, cut in ((2, 1), (2, 2)) + four:
                with self.subTest(variant=variant, ranks=size, cut=cut):
                    found = self.train(variant, f"{variant}-{size}-{cut}", size, cut)
                    for a, b in zip(found, expected):
                        self.assertEqual(len(a), len(b))
                        self.assertLess(max(abs(x - y) for x, y in zip(a, b)), 1e-3)

    def test_checkpoints_do_not_depend_on_the_ranks(self):
        """Four steps each by one process, two replicas, and a cut model, against an unbroken run."""
        expected, _ = self.train("gla", "unbroken", steps=12)
        path = recipe(self.folder, "gla", "moving", 12)
        base = ("train", path, "--threads", 1)
        for stop, size, cut in ((4, 2, 1), (8, 1, 1), (12, 2, 2)):
            arguments = (*base, "training.checkpoint_every=4", "training.keep_checkpoints=9", "--resume")
            if stop < 12:
                self.train_until(arguments, size, cut, stop)
            elif size > 1:
                result = ranks.run(LAUNCHERS[0], size, *arguments, "--tensor-parallel", cut)
                self.assertEqual(result.returncode, 0, result.stderr)
        found, _ = self.losses("moving")
        self.assertEqual(len(found), 12)
        self.assertLess(max(abs(a - b) for a, b in zip(found, expected)), 1e-3)

    def train_until(self, arguments, size, cut, stop):
        """Makes the steps up to one, and goes back to its checkpoint."""
        line = (
            ranks.line(LAUNCHERS[0], size, *arguments, "--tensor-parallel", cut)
            if size > 1 else [ranks.APUS, *map(str, arguments)])
        result = subprocess.run(line, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL)
        self.assertEqual(result.returncode, 0, result.stderr)
        for folder in (self.folder / "moving" / "checkpoints").iterdir():
            if folder.name.startswith("step-") and int(folder.name[5:]) > stop:
                shutil.rmtree(folder)

    @unittest.skipIf(Path("/dev/nvidia0").exists(), "there is a GPU")
    def test_missing_gpus_are_named(self):
        for command in (("train", recipe(self.folder, "gqa", "gpus")), ("bench", "train")):
            result = ranks.run(LAUNCHERS[0], 2, *command, "training.device=cuda")
            self.assertNotEqual(result.returncode, 0)
            self.assertRegex(result.stderr, "training.device cuda:[01]: .*libcuda")

    def test_other_tasks_are_refused(self):
        path = self.folder / "reward.yaml"
        path.write_text(
            "task: reward\nmodel: {from: nowhere}\ndata: {preferences: [x.jsonl]}\n"
            f"training: {{output: {self.folder / 'reward'}}}\n")
        result = ranks.run(LAUNCHERS[0], 2, "train", path)
        self.assertNotEqual(result.returncode, 0)
        self.assertRegex(result.stderr, "task reward on 2 ranks: expected pretrain or sft|the job ends")


@unittest.skipUnless(LAUNCHERS, "no mpirun.openmpi or mpirun.mpich (Debian: openmpi-bin, mpich)")
class InterruptedTests(unittest.TestCase):
    """A rank that dies or stops in the middle of work, and a full disk on one rank."""

    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.addCleanup(self.temporary.cleanup)
        self.folder = Path(self.temporary.name)

    def start(self, launcher, *arguments):
        process = subprocess.Popen(
            ranks.line(launcher, 2, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            stdin=subprocess.DEVNULL, env=ranks.environment(APUS_RANK_TIMEOUT=5),
            preexec_fn=lambda: signal.signal(signal.SIGXFSZ, signal.SIG_IGN))
        deadline = time.monotonic() + 60
        while len(ranks.processes(process.pid)) < 2:
            self.assertLess(time.monotonic(), deadline)
            self.assertIsNone(process.poll(), "the job ended by itself")
            time.sleep(0.1)
        return process

    def end(self, process, pattern):
        start = time.monotonic()
        out, err = process.communicate(timeout=60)
        self.assertNotEqual(process.returncode, 0)
        self.assertLess(time.monotonic() - start, 30)
        self.assertRegex(err + out, pattern)

    def test_a_rank_dies_or_stops_in_prefill_and_decoding(self):
        model = FIXTURES / "qwen3"
        for work in (("--prompt", 500, "--generate", 0), ("--prompt", 0, "--generate", 500)):
            for number, (blow, pattern) in enumerate((
                (signal.SIGKILL, r"the job ends: rank 1 \(.*\) is gone"),
                (signal.SIGSTOP, r"the job ends: rank 1 \(.*\) is silent for"),
            )):
                launcher = LAUNCHERS[number % len(LAUNCHERS)]
                with self.subTest(work=work, signal=blow, launcher=launcher):
                    process = self.start(
                        launcher, "bench", "decode", model, *work, "--repeats", 1 << 20, "--threads", 1)
                    time.sleep(2)
                    os.kill(ranks.processes(process.pid)[1], blow)
                    self.end(process, pattern)

    def training(self, launcher):
        path = recipe(self.folder, "gla", f"run-{launcher}", 100_000)
        process = self.start(
            launcher, "train", path, "--threads", 1, "training.checkpoint_every=20", "--restart")
        folder = self.folder / f"run-{launcher}" / "checkpoints"
        deadline = time.monotonic() + 60
        while not list(folder.glob("step-*")):
            self.assertLess(time.monotonic(), deadline)
            self.assertIsNone(process.poll(), "training ended by itself")
            time.sleep(0.1)
        return process, folder

    def test_a_rank_dies_in_training(self):
        for launcher in LAUNCHERS:
            with self.subTest(launcher=launcher):
                process, folder = self.training(launcher)
                os.kill(ranks.processes(process.pid)[1], signal.SIGKILL)
                self.end(process, r"the job ends: rank 1 \(.*\) is gone")
                # What is there can be resumed, here by one process.
                last = max(int(path.name[5:]) for path in folder.glob("step-*"))
                result = alone(
                    "train", self.folder / f"run-{launcher}.yaml", "--resume", f"training.steps={last + 2}", "--threads", 1)
                self.assertEqual(result.returncode, 0, result.stderr)

    def test_a_disk_is_full_on_one_rank(self):
        process, _ = self.training(LAUNCHERS[0])
        # From here on writes of the first rank fail as on a full disk.
        resource.prlimit(ranks.processes(process.pid)[0], resource.RLIMIT_FSIZE, (1000, 1000))
        self.end(process, r"the job ends: rank 0.*: .*write")


if __name__ == "__main__":
    unittest.main()
