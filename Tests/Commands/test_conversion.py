"""apus convert and apus quantize on the embedded model and on the model fixtures."""

import os
import tempfile
import unittest
from pathlib import Path

from test_commands import FIXTURES, MODEL, apus


class Converting(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name)

    def tearDown(self):
        self.folder.cleanup()

    def test_the_embedded_model_becomes_a_folder_and_is_quantised_again(self):
        code, out, err = apus("convert", MODEL, self.path / "folder", "--type", "bf16")
        self.assertEqual(code, 0, err)
        self.assertIn("272 tensors bf16", out)
        self.assertNotIn("note:", out)
        for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            self.assertTrue((self.path / "folder" / name).is_file(), name)
        # The tokenizer cuts alike, whichever file it comes from.
        text = "Don't count 2024 apples.\n  <|im_start|>user: na\u00efve \u4f60\u597d \U0001f680"
        ids = [apus("tokenize", place, "--whole", stdin=text.encode())[1] for place in (MODEL, self.path / "folder")]
        self.assertTrue(ids[0].startswith("["))
        self.assertEqual(ids[0], ids[1])
        code, _, err = apus("quantize", self.path / "folder", self.path / "again.gguf", "--type", "q4_1", "--pure")
        self.assertEqual(code, 0, err)
        code, out, err = apus("generate", self.path / "again.gguf", "What is the capital of France?", "-n", "24")
        self.assertEqual(code, 0, err)
        self.assertIn("Paris", out)

    def test_latent_models_go_into_gguf_and_back(self):
        for name in ("gta", "gla", "deepseek-v3"):
            code, _, err = apus("convert", FIXTURES / name, self.path / f"{name}.gguf")
            self.assertEqual(code, 0, err)
            code, _, err = apus("convert", self.path / f"{name}.gguf", self.path / name)
            self.assertEqual(code, 0, err)
            same = (self.path / name / "model.safetensors").read_bytes()
            self.assertEqual(same, (FIXTURES / name / "model.safetensors").read_bytes())

    def test_mistakes_are_named(self):
        taken = self.path / "taken"
        taken.mkdir()
        model = FIXTURES / "llama2"
        for arguments, words in (
            (("convert", model, taken), ("taken", "exists")),
            (("convert", model, self.path / "x.gguf", "--type", "q4_0"), ("--type", "quantize")),
            (("quantize", model, self.path / "x.gguf", "--type", "f16"), ("--type", "convert")),
            (("quantize", model, self.path / "x", "--type", "q4_0"), (".gguf",)),
            (("quantize", model, "/dev/full/x.gguf", "--type", "q4_0"), ("/dev/full/x.gguf",)),
            (("convert", self.path / "nothing", self.path / "x.gguf"), ("nothing",)),
        ):
            code, _, err = apus(*arguments)
            self.assertNotEqual(code, 0, arguments)
            for word in words:
                self.assertIn(word, err)
        self.assertEqual(sorted(os.listdir(self.path)), ["taken"])


if __name__ == "__main__":
    unittest.main()
