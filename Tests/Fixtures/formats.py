"""Writes Tests/Fixtures/formats: small model files made by the formats' own libraries.

    python3 -m venv venv && venv/bin/pip install numpy==2.4.6 safetensors==0.8.0 gguf==0.19.0
    venv/bin/python Tests/Fixtures/formats.py

Deterministic: a second run writes the same bytes.

    types.safetensors            every dtype, a scalar, an empty tensor, metadata
    types.gguf                   every metadata type, every usable tensor type and one that is not
    types-expected.safetensors   the same tensors in float32, dequantised by gguf
    big-endian.gguf              a file for machines of the other byte order
    tiny.gguf                    a whole Llama of one layer, with a vocabulary
"""

import pathlib

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from safetensors import TensorSpec, serialize

FOLDER = pathlib.Path(__file__).parent / "formats"


def save(path, tensors, metadata=None):
    """Writes safetensors from {name: (dtype, shape, bytes)}."""
    buffers = {name: np.frombuffer(data, np.uint8) for name, (_, _, data) in tensors.items()}
    entries = {
        name: TensorSpec(dtype=dtype, shape=shape, data_ptr=buffers[name].ctypes.data, data_len=len(data))
        for name, (dtype, shape, data) in tensors.items()
    }
    path.write_bytes(serialize(entries, metadata))


def plain_types():
    """Two rows of three elements of each safetensors dtype; the values are -1, 0, 1, 2, 3, 4 where they fit."""
    values = np.array([[-1, 0, 1], [2, 3, 4]])
    tensors = {}
    for name, dtype in [
        ("float64", "<f8"), ("float32", "<f4"), ("float16", "<f2"),
        ("int64", "<i8"), ("int32", "<i4"), ("int16", "<i2"), ("int8", "<i1"),
    ]:  # fmt: skip
        tensors[name] = (name, values.shape, values.astype(dtype).tobytes())
    bf16 = (values.astype("<f4").view("<u4") >> 16).astype("<u2")
    tensors["bfloat16"] = ("bfloat16", values.shape, bf16.tobytes())
    # 1 sign, 4 exponent (bias 7), 3 fraction bits.
    f8 = bytes([0xB8, 0x00, 0x38, 0x40, 0x44, 0x48])
    tensors["float8_e4m3fn"] = ("float8_e4m3fn", values.shape, f8)
    tensors["float8_e5m2"] = ("float8_e5m2", values.shape, bytes(6))
    tensors["uint8"] = ("uint8", values.shape, abs(values).astype("u1").tobytes())
    tensors["bool"] = ("bool", values.shape, (values > 0).astype("u1").tobytes())
    tensors["uint16"] = ("uint16", values.shape, abs(values).astype("<u2").tobytes())
    tensors["scalar"] = ("float32", (), np.float32(2.5).tobytes())
    tensors["empty"] = ("float32", (0, 4), b"")
    return tensors


def add_metadata(writer):
    """One key of each value type."""
    writer.add_uint8("types.uint8", 255)
    writer.add_int8("types.int8", -128)
    writer.add_uint16("types.uint16", 65535)
    writer.add_int16("types.int16", -32768)
    writer.add_uint32("types.uint32", 4294967295)
    writer.add_int32("types.int32", -2147483648)
    writer.add_float32("types.float32", 0.5)
    writer.add_bool("types.bool", True)
    writer.add_string("types.string", "naïve 🐦")
    writer.add_uint64("types.uint64", 18446744073709551615)
    writer.add_int64("types.int64", -9223372036854775808)
    writer.add_float64("types.float64", 1e300)
    writer.add_array("types.strings", ["a", "", "ß"])
    writer.add_array("types.integers", [3, 1, 2])
    writer.add_array("types.floats", [0.25, -1.5])
    writer.add_array("types.bools", [True, False])
    writer.add_array("types.nested", [[1, 2], [3]])


def blocks(generator, kind, rows, row):
    """Random packed blocks whose scales are ordinary numbers, for types that gguf reads but does not write."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    data = generator.integers(0, 256, (rows, row // block, size), dtype=np.uint8)
    scales = {Type.Q4_K: [0, 2], Type.Q6_K: [208], Type.Q5_0: [0]}[kind]
    for offset in scales:
        scale = generator.uniform(0.01, 0.1, (rows, row // block, 1)).astype("<f2")
        data[:, :, offset : offset + 2] = scale.view(np.uint8).reshape(rows, row // block, 2)
    return data.reshape(rows, -1)


def main():
    FOLDER.mkdir(exist_ok=True)
    generator = np.random.default_rng(7)
    save(FOLDER / "types.safetensors", plain_types(), {"format": "np"})

    writer = gguf.GGUFWriter(FOLDER / "types.gguf", "llama")
    add_metadata(writer)
    expected = {}
    values = np.array([[-1, 0, 1], [2, 3, 4]])

    def expect(name, array):
        expected[name] = ("float32", array.shape, array.astype("<f4").tobytes())

    for name, dtype in [("F32", "<f4"), ("F16", "<f2"), ("F64", "<f8"),
                        ("I8", "<i1"), ("I16", "<i2"), ("I32", "<i4"), ("I64", "<i8")]:  # fmt: skip
        writer.add_tensor(name, values.astype(dtype))
        expect(name, values)
    numbers = generator.standard_normal((3, 64)).astype(np.float32)
    for kind in [Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1]:
        packed = gguf.quants.quantize(numbers, kind)
        writer.add_tensor(kind.name, packed, raw_dtype=kind)
        expect(kind.name, gguf.quants.dequantize(packed, kind))
    for kind in [Type.Q4_K, Type.Q6_K]:
        packed = blocks(generator, kind, 2, 512)
        writer.add_tensor(kind.name, packed, raw_dtype=kind)
        expect(kind.name, gguf.quants.dequantize(packed, kind))
    writer.add_tensor("Q5_0", blocks(generator, Type.Q5_0, 1, 32), raw_dtype=Type.Q5_0)
    writer.add_tensor("cube", np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    expect("cube", np.arange(24).reshape(2, 3, 4))
    close(writer)
    save(FOLDER / "types-expected.safetensors", expected)

    writer = gguf.GGUFWriter(FOLDER / "big-endian.gguf", "llama", endianess=gguf.GGUFEndian.BIG)
    writer.add_uint32("types.uint32", 1)
    writer.add_tensor("F32", values.astype(np.float32))
    close(writer)
    tiny_llama(generator)


def tiny_llama(generator):
    """A model small enough to be a fuzzer's seed."""
    writer = gguf.GGUFWriter(FOLDER / "tiny.gguf", "llama")
    writer.add_context_length(16)
    writer.add_embedding_length(4)
    writer.add_block_count(1)
    writer.add_feed_forward_length(6)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(2)
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(4)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([b"<unk>", b"<s>", b"</s>", b"\xe2\x96\x81a", b"b"])
    writer.add_token_scores([0.0, 0.0, 0.0, -1.0, -2.0])
    writer.add_token_types([2, 3, 3, 1, 1])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{{ messages }}")
    shapes = {"token_embd": (5, 4), "blk.0.attn_norm": (4,), "blk.0.attn_q": (4, 4), "blk.0.attn_k": (2, 4),
              "blk.0.attn_v": (2, 4), "blk.0.attn_output": (4, 4), "blk.0.ffn_norm": (4,), "blk.0.ffn_gate": (6, 4),
              "blk.0.ffn_up": (6, 4), "blk.0.ffn_down": (4, 6), "output_norm": (4,)}  # fmt: skip
    for name, shape in shapes.items():
        writer.add_tensor(name + ".weight", generator.standard_normal(shape).astype(np.float16))
    close(writer)


def close(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
