"""A server that a benchmark starts and asks, for the scripts beside this one."""

import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


class ServerError(Exception):
    pass


class Server:
    """A server of OpenAI's API on a free port, ready when the constructor returns, until the end of the `with` block."""

    def __init__(self, command, name="apus serve"):
        self.name = name
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.log = tempfile.TemporaryFile()
        start = time.monotonic()
        self.process = subprocess.Popen(
            [str(word) for word in [*command, "--host", "127.0.0.1", "--port", self.port]],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)  # fmt: skip
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > start + 120:
                self.log.seek(0)
                tail = self.log.read().decode(errors="replace")[-600:]
                self.stop()
                raise ServerError(f"{name} did not start: {tail}")
            time.sleep(0.1)
        self.seconds_to_start = time.monotonic() - start

    def is_ready(self):
        try:
            with urllib.request.urlopen(self.address + "/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def post(self, path, **body):
        """The answer to a POST of JSON."""
        request = urllib.request.Request(
            f"{self.address}/{path}", json.dumps(body).encode(), {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)

    def processor_seconds(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def resident_bytes(self):
        return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())[1]) * 1024

    def model(self):
        with urllib.request.urlopen(self.address + "/v1/models", timeout=10) as answer:
            return json.load(answer)["data"][0]["id"]

    def counter(self, name):
        with urllib.request.urlopen(self.address + "/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if re.match(rf"\w+:{name}[ {{]", line))
