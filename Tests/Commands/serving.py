"""A running `apus serve` for the tests of its API."""

import http.client
import json
import os
import subprocess
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
APUS = os.environ.get("APUS_BINARY", str(ROOT / ".build/release/apus"))
MODEL = os.environ["APUS_TEST_MODEL"]


class Server:
    """`apus serve` on a free port, until the end of the `with` block."""

    def __init__(self, *arguments, model=MODEL, environment=None):
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [APUS, "serve", str(model), "--port", "0", *map(str, arguments)], stdout=subprocess.PIPE, stderr=self.log,
            env={**os.environ, **(environment or {})}, text=True)
        line = self.process.stdout.readline()
        if not line.startswith("serving "):
            self.process.wait(30)
            raise AssertionError(f"the server did not start: {line}{self.log_text()}")
        self.address = line.split(" at ")[1].strip()
        self.name = line.split()[1]
        self.port = int(self.address.rsplit(":", 1)[1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)
        self.process.stdout.close()
        self.log.close()

    def log_text(self):
        """What the server has logged."""
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def memory(self):
        """Resident bytes of the process, pages of the model's file left out: the system can drop those."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("expected RssAnon in the process's status")

    def request(self, method, path, body=None, headers=None, timeout=300):
        """One request; returns (status, headers, body as bytes)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            if isinstance(body, (dict, list)):
                body = json.dumps(body)
            connection.request(method, path, body=body, headers={"content-type": "application/json", **(headers or {})})
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def post(self, path, body, **options):
        """One POST of JSON; returns (status, answer)."""
        status, _, answer = self.request("POST", path, body, **options)
        return status, json.loads(answer)

    def metric(self, name):
        """The sum of a metric over its labels."""
        total = 0.0
        for line in self.request("GET", "/metrics")[2].decode().splitlines():
            if line.startswith(name + "{"):
                total += float(line.rsplit(" ", 1)[1])
        return total


def in_parallel(count, work):
    """Runs work(0) to work(count - 1) at once; returns what they return, or raises what one raises."""
    results = [None] * count
    failures = []

    def run(index):
        try:
            results[index] = work(index)
        except Exception as error:  # every failure counts, whatever it is
            failures.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results
