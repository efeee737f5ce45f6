#!/usr/bin/env python3
"""Write the fixtures of tied and latent attention: tiny random models and their logits.

    pip install torch transformers safetensors
    Tests/Fixtures/attention_models.py        # writes into Tests/Fixtures/models/

GTA, GLA and MLA are computed here from the formulas of "Hardware-Efficient Attention for Fast
Decoding" (arXiv 2505.21487) in float64; DeepSeek and MiniCPM3 by transformers. Each folder holds
config.json, model.safetensors and expected.safetensors: `tokens` (sequences, positions) as int64
and `logits` (sequences, positions, vocabulary) as float32.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import DeepseekV2Config, DeepseekV3Config, MiniCPM3Config

from models import FOLDER, logits_of, random_model, relative_error

VOCABULARY, HIDDEN, LAYERS, WIDTH, POSITIONS = 29, 16, 2, 20, 150
VISIBLE = 1e-3


# The formulas


def rms_norm(x, weight, epsilon):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + epsilon) * weight


def rotate(x, style, theta=10000.0):
    """RoPE over the last axis of x [tokens, heads, width]."""
    width = x.shape[-1]
    angles = np.arange(len(x))[:, None] * theta ** (-np.arange(0, width, 2) / width)
    cosine, sine = np.cos(angles)[:, None], np.sin(angles)[:, None]
    if style == "halves":
        first, second = x[..., : width // 2], x[..., width // 2 :]
        return np.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    first, second = x[..., 0::2], x[..., 1::2]
    out = np.empty_like(x)
    out[..., 0::2], out[..., 1::2] = first * cosine - second * sine, second * cosine + first * sine
    return out


def causal_attention(query, key, value, scale):
    """All [tokens, heads, width]."""
    scores = np.einsum("ihd,jhd->hij", query, key) * scale
    scores[:, np.triu_indices(len(query), 1)[0], np.triu_indices(len(query), 1)[1]] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("hij,jhd->ihd", weights, value)


def tied_attention(w, x, c):
    heads, groups, width, rope = c["heads"], c["groups"], c["width"], c["rope"]
    query = (x @ w["q_proj.weight"].T).reshape(-1, heads, width)
    state = (x @ w["kv_proj.weight"].T).reshape(-1, groups, width)
    key = (x @ w["W_rope_k.weight"].T + w["W_rope_k.bias"]).reshape(-1, 1, rope)
    query = np.concatenate([query[..., :-rope], rotate(query[..., -rope:], c["style"])], axis=-1)
    state = np.repeat(state, heads // groups, axis=1)
    key = np.concatenate([state[..., :-rope], np.repeat(rotate(key, c["style"]), heads, axis=1)], axis=-1)
    return causal_attention(query, key, state, width**-0.5)


def latent_attention(w, x, c):
    """Explicit keys and values; names as in the released GLA file."""
    heads, latents, width, rope, latent = (c[k] for k in ("heads", "latents", "width", "rope", "latent"))

    def linear(name, y):
        return y @ w[name + ".weight"].T + w.get(name + ".bias", 0)

    down = linear("W_dKV", x)
    key_rope = rotate(down[:, None, latents * latent :], c["style"])
    queries, keys, values = [], [], []
    query_latents = latents if c["split"] else 1
    if c["rank"]:
        query_down = linear("W_dQ", x)
        for i in range(query_latents):
            part = query_down[:, i * c["rank"] // query_latents : (i + 1) * c["rank"] // query_latents]
            number = f"_{i + 1}" if i else ""
            part = rms_norm(part, w[f"q_norm{number}.weight"], c["epsilon"])
            queries.append(linear("W_uQ_rope" + number, part).reshape(len(x), -1, width + rope))
    else:
        queries.append(linear("q_proj", x).reshape(len(x), -1, width + rope))
    for i in range(latents):
        part = rms_norm(down[:, i * latent : (i + 1) * latent], w[f"kv_norm_{i + 1}.weight"], c["epsilon"])
        up = linear(f"W_ukv_{i + 1}", part).reshape(len(x), heads // latents, width + c["value"])
        keys.append(up[..., :width])
        values.append(up[..., width:])
    query = np.concatenate(queries, axis=1)
    query = np.concatenate([query[..., :width], rotate(query[..., width:], c["style"])], axis=-1)
    key = np.concatenate([np.concatenate(keys, axis=1), np.repeat(key_rope, heads, axis=1)], axis=-1)
    return causal_attention(query, key, np.concatenate(values, axis=1), (width + rope) ** -0.5)


def forward(weights, tokens, attention, c):
    x = weights["model.embed_tokens.weight"][tokens]
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        w = {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}
        heads = {c["names"].get(k, k)[10:]: v for k, v in w.items() if k.startswith("self_attn.")}
        y = attention(heads, rms_norm(x, w["input_layernorm.weight"], 1e-6), c)
        x = x + y.reshape(len(tokens), -1) @ heads["o_proj.weight"].T + heads.get("o_proj.bias", 0)
        y = rms_norm(x, w["post_attention_layernorm.weight"], 1e-6)
        gate, up = y @ w["mlp.gate_proj.weight"].T, y @ w["mlp.up_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w["mlp.down_proj.weight"].T
    return rms_norm(x, weights["model.norm.weight"], 1e-6) @ weights["lm_head.weight"].T


def shapes_of(attention_shapes):
    shapes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        shapes |= {f"{prefix}self_attn.{k}": v for k, v in attention_shapes.items()}
        shapes |= {f"{prefix}{k}.weight": (HIDDEN,) for k in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {f"{prefix}mlp.{k}_proj.weight": (WIDTH, HIDDEN) for k in ("gate", "up")}
        shapes[prefix + "mlp.down_proj.weight"] = (HIDDEN, WIDTH)
    return shapes | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCABULARY, HIDDEN)}


def write_from_formulas(name, seed, config, attention, attention_shapes, c):
    generator = np.random.default_rng(seed)
    weights = {}
    for key, shape in shapes_of(attention_shapes).items():
        weight = generator.normal(0, 0.3, shape) if len(shape) > 1 else generator.normal(0, 0.1, shape)
        weights[key] = (weight + ("norm" in key)).astype(np.float32)
    tokens = generator.integers(0, VOCABULARY, (1, POSITIONS))
    exact = {k: v.astype(np.float64) for k, v in weights.items()}
    logits = forward(exact, tokens[0], attention, c)
    wrong = forward(exact, tokens[0], attention, c | c["without"])
    assert np.linalg.norm(wrong - logits) > VISIBLE * np.linalg.norm(logits), name
    config = {
        "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": WIDTH, "num_hidden_layers": LAYERS,
        "rms_norm_eps": 1e-6, "max_position_embeddings": 512, "rope_theta": 10000.0, "torch_dtype": "float32",
        "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
    } | config  # fmt: skip
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    expected = {"tokens": tokens.astype(np.int64), "logits": logits[None].astype(np.float32)}
    save_file(expected, folder / "expected.safetensors")


def write_variants():
    base = {"names": {}, "style": "halves", "epsilon": 1e-6}

    # head_dim is the RoPE width, as the authors' code leaves it behind.
    heads, groups, width, rope = 4, 2, 6, 4
    write_from_formulas(
        "gta", 1,
        {"model_type": "llama", "num_attention_heads": heads, "num_key_value_heads": groups, "head_dim": rope, "rope_dim": rope},
        tied_attention,
        {
            "q_proj.weight": (heads * width, HIDDEN), "kv_proj.weight": (groups * width, HIDDEN),
            "W_rope_k.weight": (rope, HIDDEN), "W_rope_k.bias": (rope,), "o_proj.weight": (HIDDEN, heads * width),
        },
        base | {"heads": heads, "groups": groups, "width": width, "rope": rope, "without": {"style": "pairs"}},
    )  # fmt: skip

    def latent_shapes(c, bias):
        rank, split = c["rank"], c["latents"] if c["split"] else 1
        queries, up = c["heads"] * (c["width"] + c["rope"]), c["heads"] // c["latents"] * (c["width"] + c["value"])
        linears = {"W_dKV": (c["latents"] * c["latent"] + c["rope"], HIDDEN)}
        shapes = {}
        if rank:
            linears["W_dQ"] = (rank, HIDDEN)
            for i in range(split):
                number = f"_{i + 1}" if i else ""
                linears["W_uQ_rope" + number] = (queries // split, rank // split)
                shapes[f"q_norm{number}.weight"] = (rank // split,)
        else:
            linears["q_proj"] = (queries, HIDDEN)
        for i in range(c["latents"]):
            linears[f"W_ukv_{i + 1}"] = (up, c["latent"])
            shapes[f"kv_norm_{i + 1}.weight"] = (c["latent"],)
        for key, shape in linears.items():
            shapes[key + ".weight"] = shape
            if bias:
                shapes[key + ".bias"] = shape[:1]
        return shapes | {"o_proj.weight": (HIDDEN, c["heads"] * c["value"])}

    # The released file's shape: two latent heads of 2 d_h, a query latent of 8 d_h, biases.
    c = base | {"heads": 4, "latents": 2, "width": 6, "value": 6, "rope": 4, "latent": 12, "rank": 48, "split": False}
    write_from_formulas(
        "gla", 2, {"model_type": "llama", "num_attention_heads": 4, "num_key_value_heads": 4, "qk_rope_dim": 4},
        latent_attention, latent_shapes(c, True), c | {"without": {"style": "pairs"}},
    )  # fmt: skip

    # Three latent heads with a query latent each (GLA_q), no biases.
    c = base | {"heads": 6, "latents": 3, "width": 5, "value": 5, "rope": 2, "latent": 7, "rank": 27, "split": True}
    write_from_formulas(
        "gla-split", 3,
        {
            "model_type": "llama", "num_attention_heads": 6, "head_dim": 5, "qk_rope_dim": 2, "num_latent_heads": 3,
            "kv_latent_dim": 7, "q_latent_dim": 27, "split_q_latent": True, "latent_bias": False,
        },
        latent_attention, latent_shapes(c, False), c | {"without": {"epsilon": 1e-1}},
    )  # fmt: skip

    # MLA under DeepSeek's names, all layers dense, pairs rotated as neighbours.
    c = base | {"heads": 3, "latents": 1, "width": 7, "value": 5, "rope": 4, "latent": 19, "rank": 0, "split": False}
    names = {"kv_b_proj": "W_ukv_1", "kv_a_proj_with_mqa": "W_dKV", "kv_a_layernorm": "kv_norm_1"}
    names = {f"self_attn.{k}.weight": f"self_attn.{v}.weight" for k, v in names.items()}
    back = {v[10:]: k[10:] for k, v in names.items()}
    c |= {"names": names, "style": "pairs"}
    write_from_formulas(
        "mla", 4,
        {
            "model_type": "deepseek_v2", "architectures": ["DeepseekV2ForCausalLM"], "num_attention_heads": 3,
            "q_lora_rank": None, "kv_lora_rank": 19, "qk_nope_head_dim": 7, "qk_rope_head_dim": 4, "v_head_dim": 5,
            "first_k_dense_replace": LAYERS,
        },
        latent_attention, {back.get(k, k): v for k, v in latent_shapes(c, False).items()},
        c | {"without": {"style": "halves"}},
    )  # fmt: skip


# transformers


def write_from_transformers(name, seed, config, without):
    model = random_model(config, seed)
    with torch.no_grad():
        for key, buffer in model.named_buffers():
            if key.endswith("e_score_correction_bias"):
                buffer.normal_(0, 0.2, generator=torch.Generator().manual_seed(seed))
    tokens = torch.randint(3, VOCABULARY, (1, POSITIONS), generator=torch.Generator().manual_seed(seed))
    expected = logits_of(model, tokens)
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    for key, value in without.items():
        changed = type(model).from_pretrained(folder, attn_implementation="eager", dtype=torch.float32, **{key: value})
        difference = relative_error(logits_of(changed.eval(), tokens), expected)
        assert difference > VISIBLE, f"{name}: {key} changes the logits by {difference:.1e} only"
    save_file({"tokens": tokens.numpy(), "logits": expected.numpy()}, folder / "expected.safetensors")


def yarn(**changes):
    parameters = {
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "beta_fast": 32, "beta_slow": 1, "mscale": 0.707,
        "mscale_all_dim": 0.9, "original_max_position_embeddings": 64,
    }  # fmt: skip
    return parameters | changes


def write_families():
    small = {
        "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": WIDTH, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4, "kv_lora_rank": 18, "qk_nope_head_dim": 6, "qk_rope_head_dim": 8, "v_head_dim": 5,
        "max_position_embeddings": 512, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    experts = {"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 12, "first_k_dense_replace": 1}

    config = DeepseekV2Config(
        **small, **experts, q_lora_rank=None, n_shared_experts=2, topk_method="greedy", rope_parameters=yarn()
    )
    without = {"rope_parameters": yarn(mscale_all_dim=0.5), "routed_scaling_factor": 2.0}
    write_from_transformers("deepseek-v2-lite", 21, config, without)

    config = DeepseekV2Config(
        **small, **experts, q_lora_rank=20, n_shared_experts=1, topk_method="group_limited_greedy", n_group=4,
        topk_group=2, routed_scaling_factor=2.5, attention_bias=True, rope_parameters=yarn(mscale_all_dim=0.707),
    )  # fmt: skip
    without = {"topk_method": "greedy", "routed_scaling_factor": 1.0}
    write_from_transformers("deepseek-v2", 22, config, without)

    config = DeepseekV3Config(
        **small, **experts, q_lora_rank=20, n_shared_experts=1, n_group=4, topk_group=2, routed_scaling_factor=2.5,
        norm_topk_prob=True, rope_parameters=yarn(mscale=1.0, mscale_all_dim=1.0), num_mtp_layers=0,
    )  # fmt: skip
    without = {"norm_topk_prob": False, "rope_interleave": False, "topk_group": 4}
    write_from_transformers("deepseek-v3", 23, config, without)

    factors = {"short_factor": [1.0, 1.5, 2.0, 4.0], "long_factor": [1.0, 2.0, 5.0, 9.0]}
    longrope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 64} | factors
    config = MiniCPM3Config(
        **small | {"tie_word_embeddings": True}, q_lora_rank=20, scale_emb=3, scale_depth=1.4, dim_model_base=16,
        rope_parameters=longrope,
    )  # fmt: skip
    without = {"scale_emb": 1, "scale_depth": 2.0, "dim_model_base": 24}
    without["rope_parameters"] = longrope | {"long_factor": factors["short_factor"]}
    write_from_transformers("minicpm3", 24, config, without)


if __name__ == "__main__":
    write_variants()
    write_families()
    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if not path.is_symlink())
    print(f"{FOLDER}: {size / 1e6:.2f} MB")
