"""A server whose model is computed by ranks: answers, failures of a rank, several groups behind one address."""

import http.client
import json
import os
import signal
import tempfile
import time
import unittest
from pathlib import Path

import ranks
from serving import Server, in_parallel
from test_ranks import alone, recipe

LAUNCHERS = ranks.launchers()


def launcher(name):
    """The words that start ranks, as --launcher takes them."""
    return " ".join(str(word) for word in ranks.line(name, 1)[:-3])


@unittest.skipUnless(LAUNCHERS, "no mpirun.openmpi or mpirun.mpich (Debian: openmpi-bin, mpich)")
class RankServerTests(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        folder = Path(cls.temporary.name)
        result = alone(
            # Steps enough that roundings do not decide which token is the likeliest.
            "train", recipe(folder, "gla", "model", 20), "data.sequence_length=2048", "data.batch_size=1", "--threads", 1)
        assert result.returncode == 0, result.stderr
        cls.model = folder / "model" / "checkpoints" / "step-00000020"

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def server(self, *arguments, name=LAUNCHERS[0] if LAUNCHERS else ""):
        server = Server(
            "--launcher", launcher(name), "--threads", 1, "--context", 2000, *arguments, model=self.model,
            environment={"APUS_RANK_TIMEOUT": "5"})
        self.addCleanup(self.end, server)
        return server

    def end(self, server):
        server.process.terminate()
        server.process.wait(30)
        server.__exit__()

    def wait(self, server, groups=1, seconds=60):
        deadline = time.monotonic() + seconds
        while sum(group["ready"] for group in self.groups(server)) < groups:
            self.assertLess(time.monotonic(), deadline, server.log_text())
            time.sleep(0.1)

    def groups(self, server):
        return json.loads(server.request("GET", "/ranks")[2])["groups"]

    def question(self, **changes):
        return {"model": self.model.name, "prompt": "the swift sky", "max_tokens": 24, "temperature": 0, **changes}

    def stream(self, server, **changes):
        """A streamed request; returns the connection and its response."""
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        self.addCleanup(connection.close)
        body = self.question(stream=True, ignore_eos=True, **changes)
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        return connection.getresponse()

    def test_answers_equal_those_of_one_process(self):
        with Server("--threads", 1, model=self.model) as one:
            questions = [
                self.question(), self.question(prompt="river cloud", n=3, max_tokens=12),
                self.question(prompt="tower " * 60, logprobs=2), self.question(echo=True, logprobs=1, max_tokens=4),
            ]
            expected = [one.post("/v1/completions", question) for question in questions]
        for name in LAUNCHERS:
            with self.subTest(launcher=name):
                server = self.server("--tensor-parallel", 2, name=name)
                status, answer = server.post("/v1/completions", questions[0])
                if status == 503:
                    self.assertEqual(answer["error"]["code"], "ranks_not_ready")
                self.wait(server)
                found = in_parallel(len(questions), lambda index: server.post("/v1/completions", questions[index]))
                for (status, answer), (_, wanted) in zip(found, expected):
                    self.assertEqual(status, 200, answer)
                    self.assertEqual(
                        [choice["text"] for choice in answer["choices"]],
                        [choice["text"] for choice in wanted["choices"]])
                # A whole answer by events is the same text.
                text = ""
                for line in self.stream(server).read().decode().splitlines():
                    if line.startswith("data: {"):
                        text += json.loads(line[6:])["choices"][0]["text"]
                plain = server.post("/v1/completions", self.question(ignore_eos=True))[1]
                self.assertEqual(text, plain["choices"][0]["text"])
                self.assertEqual(server.post("/v1/completions", {"prompt": 3})[0], 400)
                self.end(server)
                self.assertEqual(ranks.processes(os.getpid()), {})

    def test_a_rank_that_dies_ends_open_requests_and_is_started_again(self):
        server = self.server("--tensor-parallel", 2)
        self.wait(server)
        response = self.stream(server, max_tokens=1900)
        self.assertEqual(response.status, 200)
        response.readline()
        os.kill(ranks.processes(server.process.pid)[1], signal.SIGKILL)
        start = time.monotonic()
        lines = [line for line in response.read().decode().splitlines() if line.startswith("data: ")]
        self.assertLess(time.monotonic() - start, 30)
        self.assertEqual(lines[-1], "data: [DONE]")
        self.assertEqual(json.loads(lines[-2][6:])["error"]["code"], "ranks_ended")
        status, answer = server.post("/v1/completions", self.question())
        self.assertEqual((status, answer["error"]["type"]), (503, "server_error"))
        deadline = time.monotonic() + 60
        while self.groups(server)[0]["starts"] < 2:
            self.assertLess(time.monotonic(), deadline, server.log_text())
            time.sleep(0.1)
        self.wait(server)
        self.assertEqual(server.post("/v1/completions", self.question())[0], 200)
        self.assertRegex(server.log_text(), r"the job ends: rank 1 \(.*\) is gone|rank 1 with PID")

    def test_a_rank_that_stops_ends_open_requests(self):
        server = self.server("--tensor-parallel", 2)
        self.wait(server)
        response = self.stream(server, max_tokens=1900)
        response.readline()
        os.kill(ranks.processes(server.process.pid)[1], signal.SIGSTOP)
        start = time.monotonic()
        lines = [line for line in response.read().decode().splitlines() if line.startswith("data: ")]
        self.assertLess(time.monotonic() - start, 30)
        self.assertEqual(json.loads(lines[-2][6:])["error"]["code"], "ranks_ended")
        self.assertIn("is silent for", server.log_text())

    def test_two_groups_share_the_requests_and_one_goes_on_alone(self):
        server = self.server("--tensor-parallel", 2, "--data-parallel", 2)
        self.wait(server, groups=2)
        streams = [self.stream(server, max_tokens=1500) for _ in range(2)]
        self.assertEqual([group["open_requests"] for group in self.groups(server)], [1, 1])
        for stream in streams:
            self.assertIn("data: [DONE]", stream.read().decode())
        metrics = server.request("GET", "/metrics")[2].decode()
        finished = [line for line in metrics.splitlines() if line.startswith("apus:generation_tokens_total{")]
        self.assertEqual(sorted(line.partition(",")[0] for line in finished), [
            f'apus:generation_tokens_total{{replica="{number}"' for number in range(2)])
        self.assertTrue(all(float(line.split()[-1]) == 1500 for line in finished), finished)
        os.kill(ranks.processes(server.process.pid)[1], signal.SIGKILL)
        time.sleep(1)
        answers = [server.post("/v1/completions", self.question()) for _ in range(4)]
        self.assertEqual([status for status, _ in answers], [200] * 4)
        self.wait(server, groups=2)

    def test_a_front_that_is_killed_takes_its_ranks_with_it(self):
        server = self.server("--tensor-parallel", 2)
        self.wait(server)
        found = ranks.processes(server.process.pid)
        self.assertEqual(sorted(found), [0, 1])
        server.process.kill()
        server.process.wait(30)
        deadline = time.monotonic() + 30
        while any(Path(f"/proc/{process}").exists() for process in found.values()):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.2)


if __name__ == "__main__":
    unittest.main()
