#!/usr/bin/env python3
"""Write the model fixtures: tiny random models with the logits that transformers computes.

    pip install torch transformers safetensors gguf
    Tests/Fixtures/models.py            # writes Tests/Fixtures/models/

Each folder holds a Hugging Face model (config.json, safetensors), for some a GGUF file of the
same weights (model.gguf), and expected.safetensors: `tokens` (sequences, positions) as int64
and `logits` (sequences, positions, vocabulary) as float32, or `scores` (sequences, labels) for
a reward model. The script also checks that each feature a fixture stands for changes the logits,
so that a reader which ignores the feature cannot pass.
"""

import json
import math
import shutil
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

FOLDER = Path(__file__).resolve().parent / "models"
SEQUENCES, POSITIONS = 2, 12
# Logits must differ by more than this, relatively, when a feature is taken away.
VISIBLE = 1e-2

SMALL = {"vocab_size": 67, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "max_position_embeddings": 1024}
TINY = SMALL | {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
# With 8 rotated dimensions and base 10000 the wavelengths are 6, 63, 628 and 6283 positions: kept,
# blended, and stretched twice.
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}


def rope(theta):
    return {"rope_type": "default", "rope_theta": theta}


def random_model(config, seed, head=AutoModelForCausalLM):
    """A model with every parameter random: biases and norms too, so that none can be forgotten."""
    model = head.from_config(config, attn_implementation="eager").eval().float()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2, generator=generator)
            else:
                parameter.add_(torch.empty_like(parameter).normal_(0, 0.1, generator=generator))
    return model


def random_tokens(config, seed):
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randint(3, config.vocab_size, (SEQUENCES, POSITIONS), generator=generator)


def logits_of(model, tokens):
    with torch.no_grad():
        return model(tokens).logits.float().contiguous()


def relative_error(found, expected):
    return (torch.linalg.norm(found - expected) / torch.linalg.norm(expected)).item()


def write(name, model, seed, shard="1GB", without=None, output="logits"):
    """Save `model` and its expected output; `without`: a config change that must be visible."""
    folder = FOLDER / name
    model.save_pretrained(folder, max_shard_size=shard)
    (folder / "generation_config.json").unlink(missing_ok=True)
    tokens = random_tokens(model.config, seed)
    reloaded = type(model).from_pretrained(folder, attn_implementation="eager", dtype=model.dtype).eval()
    expected = logits_of(reloaded.float(), tokens)
    if without is not None:
        changed = type(model).from_pretrained(folder, attn_implementation="eager", dtype=torch.float32, **without).eval()
        difference = relative_error(logits_of(changed, tokens), expected)
        assert difference > VISIBLE, f"{name}: {without} changes the logits by {difference:.1e} only"
    save_file({"tokens": tokens, output: expected}, folder / "expected.safetensors")
    return folder, tokens, expected


def write_older_spelling(name, source):
    """The same weights under a config.json as transformers wrote it before version 5."""
    folder = FOLDER / name
    folder.mkdir()
    for shared in ("model.safetensors", "expected.safetensors"):
        (folder / shared).symlink_to(Path("..") / source / shared)
    config = json.loads((FOLDER / source / "config.json").read_text())
    parameters = config.pop("rope_parameters")
    if config["model_type"] == "gpt_neox":
        config["rotary_emb_base"] = parameters.pop("rope_theta")
        config["rotary_pct"] = parameters.pop("partial_rotary_factor")
    else:
        config["rope_theta"] = parameters.pop("rope_theta")
    config["rope_scaling"] = None if parameters["rope_type"] == "default" else parameters
    config["torch_dtype"] = config.pop("dtype")
    config.pop("layer_types", None)
    config["transformers_version"] = "4.45.0"
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    expected = load_file(folder / "expected.safetensors")
    error = relative_error(logits_of(model, expected["tokens"]), expected["logits"])
    assert error < 1e-6, f"{name}: the older spelling changes the logits by {error:.1e}"


# GGUF


def rotate_halves_to_pairs(weight, heads):
    """GGUF's Llama rotates neighbouring elements where Hugging Face rotates halves of a head."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def split_fused(tensor, heads):
    """GPT-NeoX keeps (query, key, value) per head; GGUF keeps all queries, all keys, all values."""
    per_head = tensor.reshape(heads, 3, -1, *tensor.shape[1:])
    return np.concatenate([per_head[:, part].reshape(-1, *tensor.shape[1:]) for part in range(3)])


def llama3_factors(config):
    """What each frequency is divided by: the tensor rope_freqs of a GGUF file."""
    parameters = config.rope_parameters
    width = config.head_dim
    original, low, high = (
        parameters[key] for key in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
    )
    factors = []
    for index in range(0, width, 2):
        wavelength = 2 * math.pi * parameters["rope_theta"] ** (index / width)
        blend = min(1, max(0, (original / wavelength - low) / (high - low)))
        factors.append(1 / ((1 - blend) / parameters["factor"] + blend))
    return np.array(factors, dtype=np.float32)


def write_gguf(folder, model, architecture):
    config = model.config
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer = gguf.GGUFWriter(folder / "model.gguf", architecture)
    writer.add_name(folder.name)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    if architecture == "gptneox":
        kv_heads = heads
        writer.add_layer_norm_eps(config.layer_norm_eps)
        writer.add_rope_dimension_count(int(width * config.rope_parameters["partial_rotary_factor"]))
        writer.add_parallel_residual(config.use_parallel_residual)
    else:
        kv_heads = config.num_key_value_heads
        writer.add_head_count_kv(kv_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_dimension_count(width)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        writer.add_key_length(width)
        writer.add_value_length(width)
        if config.rope_parameters["rope_type"] == "llama3":
            writer.add_tensor("rope_freqs.weight", llama3_factors(config))

    names = gguf.get_tensor_name_map(writer_architecture(architecture), config.num_hidden_layers)
    tied = config.tie_word_embeddings
    for name, tensor in model.state_dict().items():
        if tied and name in ("lm_head.weight", "embed_out.weight"):
            continue
        data = tensor.float().numpy()
        if architecture == "llama" and ".q_proj." in name:
            data = rotate_halves_to_pairs(data, heads)
        elif architecture == "llama" and ".k_proj." in name:
            data = rotate_halves_to_pairs(data, kv_heads)
        elif ".query_key_value." in name:
            data = split_fused(data, heads)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), np.ascontiguousarray(data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def writer_architecture(name):
    return next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == name)


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)

    config = LlamaConfig(**TINY | {"num_key_value_heads": 2}, **SPECIAL, rms_norm_eps=1e-6, tie_word_embeddings=False)
    model = random_model(config, 1)
    folder, _, _ = write("llama2", model, 1)
    write_gguf(folder, model, "llama")

    config = LlamaConfig(
        **SMALL, **SPECIAL, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, rope_parameters=LLAMA3_ROPE
    )
    model = random_model(config, 2)
    folder, _, _ = write("llama3", model, 2, without={"rope_parameters": rope(LLAMA3_ROPE["rope_theta"])})
    write_gguf(folder, model, "llama")
    write_older_spelling("llama3-older-config", "llama3")

    config = LlamaConfig(
        **SMALL | {"hidden_size": 36, "intermediate_size": 40}, **SPECIAL, num_attention_heads=9, num_key_value_heads=3,
        tie_word_embeddings=True, rope_parameters=rope(100000.0),
    )  # fmt: skip
    write("smollm2", random_model(config, 3), 3)

    config = MistralConfig(**TINY, **SPECIAL, sliding_window=5, tie_word_embeddings=False)
    write("mistral-window", random_model(config, 4), 4, without={"sliding_window": None})

    for seed, tied in ((5, True), (6, False)):
        config = Qwen2Config(
            **TINY, tie_word_embeddings=tied, rope_parameters=rope(1000000.0), bos_token_id=1, eos_token_id=2
        )
        model = random_model(config, seed)
        folder, _, _ = write("qwen2-tied" if tied else "qwen2", model, seed)
        if not tied:
            write_gguf(folder, model, "qwen2")
            write_older_spelling("qwen2-older-config", "qwen2")

    config = Qwen3Config(
        **SMALL, num_attention_heads=4, num_key_value_heads=2, head_dim=12, tie_word_embeddings=True,
        rope_parameters=rope(1000000.0), bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = random_model(config, 7)
    folder, _, _ = write("qwen3", model, 7)
    write_gguf(folder, model, "qwen3")

    for seed, parallel in ((8, True), (9, False)):
        config = GPTNeoXConfig(
            **SMALL, num_attention_heads=2, use_parallel_residual=parallel, tie_word_embeddings=False,
            rope_parameters=rope(10000.0) | {"partial_rotary_factor": 0.25}, bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        model = random_model(config, seed)
        folder, _, _ = write(
            "gptneox" if parallel else "gptneox-sequential", model, seed, without={"use_parallel_residual": not parallel}
        )
        if parallel:
            write_gguf(folder, model, "gptneox")
            write_older_spelling("gptneox-older-config", "gptneox")

    config = LlamaConfig(**TINY, **SPECIAL, num_labels=1)
    write("llama-reward", random_model(config, 10, AutoModelForSequenceClassification), 10, output="scores")

    config = LlamaConfig(**TINY, **SPECIAL, tie_word_embeddings=False)
    write("llama-sharded", random_model(config, 11), 11, shard="12KB")
    write("llama-bf16", random_model(config, 12).to(torch.bfloat16), 12)

    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if not path.is_symlink())
    print(f"{FOLDER}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
