"""apus data prepare as a person uses it: on the shipped books, killed in the middle, and against `tokenizers`."""

import gzip
import json
import os
import signal
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

try:
    import tokenizers
except ImportError:
    tokenizers = None

ROOT = Path(__file__).resolve().parents[2]
APUS = os.environ.get("APUS_BINARY", str(ROOT / ".build/release/apus"))
BOOKS = ROOT / "Examples/books"


def command(*arguments):
    return [APUS, "data", "prepare", *map(str, arguments)]


def prepare(*arguments):
    """Runs apus data prepare; returns (exit code, standard output, standard error)."""
    done = subprocess.run(command(*arguments), capture_output=True, timeout=300, check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def tokens(folder, split):
    """The tokens of a part, read by the documented format alone."""
    result = []
    for shard in json.loads((folder / "manifest.json").read_text())["shards"]:
        if shard["split"] != split:
            continue
        data = (folder / shard["file"]).read_bytes()
        assert data[:8] == b"APUSTOKN"
        width = int.from_bytes(data[12:16], "little")
        count = int.from_bytes(data[40:48], "little")
        body = data[64 : 64 + count * width]
        result += memoryview(body).cast("H" if width == 2 else "I").tolist()
    return result


class Preparing(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def books(self):
        """The shipped books, prepared with a small vocabulary."""
        output = self.folder / "books"
        code, out, err = prepare(
            BOOKS / "train.txt.zst", "--validation", BOOKS / "validation.txt.zst", "--train-vocabulary", 512, "-o", output,
            "--json")
        self.assertEqual(code, 0, err)
        return output, json.loads(out)

    def test_the_shipped_books(self):
        output, report = self.books()
        self.assertEqual(report["vocabularySize"], 512)
        self.assertEqual((report["trainDocuments"], report["validationDocuments"]), (24, 1))
        ids = tokens(output, "train")
        self.assertEqual(len(ids), report["trainTokens"])
        self.assertEqual(ids.count(0), 24)

    @unittest.skipIf(tokenizers is None, "the Python package tokenizers is not installed")
    def test_tokenizers_reads_the_trained_vocabulary_and_finds_the_same_ids(self):
        output, _ = self.books()
        peer = tokenizers.Tokenizer.from_file(str(output / "tokenizer.json"))
        text = peer.decode(tokens(output, "validation"), skip_special_tokens=True)
        self.assertEqual(peer.encode(text).ids + [0], tokens(output, "validation"))

    def test_killed_at_any_moment_it_goes_on(self):
        source = self.folder / "text.jsonl.gz"
        sentences = [f"Sentence {i} of many, {i * i % 9973} and so on." for i in range(400)]
        with gzip.open(source, "wt", compresslevel=1) as file:
            for row in range(12_000):
                at = row * 7 % 390
                file.write(json.dumps({"id": row, "text": " ".join(sentences[at : at + 60])}) + "\n")
        flags = (source, "--train-vocabulary", 600, "--shard-size", 1, "--validation-fraction", 0.1)
        whole = self.folder / "whole"
        self.assertEqual(prepare(*flags, "-o", whole)[0], 0)
        expected = json.loads((whole / "manifest.json").read_text())
        self.assertGreater(len(expected["shards"]), 8)

        broken, kills = self.folder / "broken", 0
        for shards in (0, 2, 5, 9):
            with subprocess.Popen(command(*flags, "-o", broken), stderr=subprocess.DEVNULL) as process:
                while process.poll() is None:
                    manifest = broken / "manifest.json"
                    if manifest.exists() and len(json.loads(manifest.read_text())["shards"]) >= shards:
                        process.send_signal(signal.SIGKILL)
                        break
                    time.sleep(0.001)
            kills += process.returncode == -signal.SIGKILL
        self.assertGreater(kills, 0)
        kept = {p.name: p.stat().st_mtime_ns for p in broken.glob("*.tokens")}
        named = {s["file"] for s in json.loads((broken / "manifest.json").read_text())["shards"]}
        self.assertEqual(prepare(*flags, "-o", broken)[0], 0)
        self.assertEqual(json.loads((broken / "manifest.json").read_text()), expected)
        for shard in expected["shards"]:
            self.assertEqual((broken / shard["file"]).read_bytes(), (whole / shard["file"]).read_bytes())
            if shard["file"] in named:
                self.assertEqual((broken / shard["file"]).stat().st_mtime_ns, kept[shard["file"]], "done twice")

    def test_bad_input_is_named(self):
        empty, binary = self.folder / "empty.txt", self.folder / "binary.txt"
        empty.write_bytes(b"")
        binary.write_bytes(b"text\0more")
        cut = self.folder / "cut.txt.zst"
        cut.write_bytes((BOOKS / "train.txt.zst").read_bytes()[:20_000])
        for source, words in [
            (empty, "found none"), (binary, "byte 4"), (cut, "byte 20000"), (self.folder / "absent", "absent"),
        ]:
            code, out, err = prepare(source, "--train-vocabulary", 300, "-o", self.folder / "out")
            self.assertEqual((code, out), (1, ""), source)
            self.assertIn(source.name, err)
            self.assertIn(words, err)
        self.assertEqual(prepare(empty, "-o", self.folder / "out")[0], 64)


if __name__ == "__main__":
    unittest.main()
