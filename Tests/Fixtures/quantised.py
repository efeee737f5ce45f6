#!/usr/bin/env python3
"""Write the fixture of packed blocks: a GGUF file with one tensor a type, and its values in float32.

    pip install numpy safetensors gguf
    Tests/Fixtures/quantised.py         # writes Tests/Fixtures/quantised/

Tensors are named by their type, (3, 512) elements each. The bits are random, so that every bit of
a block is used; only the float16 scales are kept small and finite. The values are those that the
gguf package computes.
"""

from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import save_file

FOLDER = Path(__file__).resolve().parent / "quantised"
ROWS, COLUMNS = 3, 512
# Where the float16 numbers of a block lie, in bytes.
SCALES = {Type.Q8_0: [0], Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q4_K: [0, 2], Type.Q6_K: [208]}


def random_blocks(kind, generator):
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = generator.integers(0, 256, (ROWS, COLUMNS // elements, size), dtype=np.uint8)
    for place in SCALES[kind]:
        scale = generator.normal(0, 0.02, blocks.shape[:2]).astype(np.float16)
        blocks[:, :, place : place + 2] = scale[..., None].view(np.uint8)
    return blocks.reshape(ROWS, -1)


def main():
    FOLDER.mkdir(exist_ok=True)
    generator = np.random.default_rng(7)
    writer = gguf.GGUFWriter(FOLDER / "blocks.gguf", "llama")
    expected = {}
    for kind in SCALES:
        blocks = random_blocks(kind, generator)
        writer.add_tensor(kind.name, blocks, raw_dtype=kind)
        expected[kind.name] = gguf.quants.dequantize(blocks, kind).astype(np.float32)
        assert expected[kind.name].shape == (ROWS, COLUMNS) and np.isfinite(expected[kind.name]).all()
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(expected, FOLDER / "expected.safetensors")


if __name__ == "__main__":
    main()
