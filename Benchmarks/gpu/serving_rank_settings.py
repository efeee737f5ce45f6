"""One tensor-parallel rank of the paper's serving model: shapes, bytes, cache capacity and floors. Needs no torch, no GPU.

The model is of DeepSeek-Coder-V2's shape (236B), whose attention the paper replaces: 128 query heads over 8 ranks, MLA with a
latent of 512 on every rank or GLA-8 with one latent head of 256 on each.
"""

import collections
from pathlib import Path

HERE = Path(__file__).resolve().parent
RANKS = 8
MODEL, LAYERS, DENSE_LAYERS, VOCABULARY = 5120, 60, 1, 102400 // RANKS
HEADS, NOPE, ROPE, VALUE, QUERY_LATENT = 128 // RANKS, 128, 64, 128, 1536
EXPERTS, PICKS, SHARED_EXPERTS, EXPERT_GROUPS, GROUPS_KEPT, ROUTING_FACTOR = 160, 6, 2, 8, 3, 16.0
WIDTH, DENSE_WIDTH = 1536 // RANKS, 12288 // RANKS  # of an expert and of the dense layer's feed-forward, on this rank
PAGE, CHUNK, PREFILL_CHUNK = 64, 16, 8192
CACHE_BYTES = 30e9
EPSILON = 1e-6
LATENTS = {"GLA-8": 256, "MLA": 512}

# Prompt and output tokens; the concurrencies at which each is served.
SETTINGS = [(8192, 4096, (4, 16, 32, 64, 128)), (32768, 4096, (4, 16, 64, 128)), (131072, 4096, (4, 16, 64, 128))]

Geometry = collections.namedtuple("Geometry", "heads groups shared value key once")


def geometry(variant):
    return Geometry(HEADS, 1, LATENTS[variant], 0, ROPE, 1)


def definitions(variant):
    """Of serving_rank.cu."""
    return dict(
        MODEL=MODEL, QUERY_LATENT=QUERY_LATENT, LATENT=LATENTS[variant], ROPE=ROPE, NOPE=NOPE, HEADS=HEADS, EXPERTS=EXPERTS,
        EXPERT_GROUPS=EXPERT_GROUPS, GROUPS_KEPT=GROUPS_KEPT, PICKS=PICKS, SHARED_EXPERTS=SHARED_EXPERTS, WIDTH=WIDTH)


def append_definitions(variant):
    return dict(
        SHARED=LATENTS[variant], VALUE=0, KEY=ROPE, KEY_ONCE=1, PAGE_SIZE=PAGE, FP8=0, NORM=1, ROTATED=ROPE, INTERLEAVED=0)


def chunks(tokens):
    """The most chunks of at most CHUNK pairs into which the experts' tokens can fall."""
    return SHARED_EXPERTS * -(-tokens // CHUNK) + min(tokens * PICKS, EXPERTS + tokens * PICKS // CHUNK)


def cache_bytes_per_token(variant):
    return LAYERS * 2 * (LATENTS[variant] + ROPE)


def capacity(variant, length, budget=CACHE_BYTES):
    """Sequences for which `length` tokens can be reserved."""
    pages = int(budget // (cache_bytes_per_token(variant) * PAGE))
    return pages // -(-length // PAGE)


def weight_bytes(variant):
    """Bytes of a layer: attention's (FP8; the absorbed products bf16), a routed or shared expert's, the router's; of the head."""
    latent = LATENTS[variant]
    attention = MODEL * (QUERY_LATENT + latent + ROPE) + QUERY_LATENT * HEADS * (NOPE + ROPE) + HEADS * VALUE * MODEL
    return dict(
        attention=attention + 2 * HEADS * latent * (NOPE + VALUE), expert=3 * MODEL * WIDTH, router=2 * MODEL * EXPERTS,
        dense=3 * MODEL * DENSE_WIDTH, head=2 * MODEL * VOCABULARY)


def experts_touched(tokens):
    """Of the routed ones, expected when each token's choice is uniform."""
    return EXPERTS * (1 - (1 - PICKS / EXPERTS) ** tokens)


def step_bytes(variant, sequences, query_tokens, cached, touched=None):
    """(weights, cache) that a decode step reads at least, `cached` tokens a sequence; `touched` routed experts a layer."""
    w, moe = weight_bytes(variant), LAYERS - DENSE_LAYERS
    touched = experts_touched(sequences * query_tokens) if touched is None else touched
    weights = LAYERS * w["attention"] + DENSE_LAYERS * w["dense"] + w["head"]
    weights += moe * (w["router"] + w["expert"] * (touched + SHARED_EXPERTS))
    return weights, sequences * cached * cache_bytes_per_token(variant)


def prefill_operations(variant, new, cached):
    """Of a chunk of `new` tokens after `cached` ones: products, and causal attention with the up-projection of all keys."""
    latent, moe = LATENTS[variant], LAYERS - DENSE_LAYERS
    attention = MODEL * (QUERY_LATENT + latent + ROPE) + QUERY_LATENT * HEADS * (NOPE + ROPE) + HEADS * VALUE * MODEL
    products = LAYERS * attention + DENSE_LAYERS * 3 * MODEL * DENSE_WIDTH
    products += moe * (MODEL * EXPERTS + 3 * MODEL * WIDTH * (PICKS + SHARED_EXPERTS))
    scores = new * cached + new * (new + 1) // 2
    per_layer = scores * HEADS * (NOPE + ROPE + VALUE) + (new + cached) * latent * HEADS * (NOPE + VALUE)
    return 2 * (products * new + LAYERS * per_layer)


def served(running, output, step, prefill, tokens_per_step=1):
    """Output tokens/s of a closed loop of `running` sequences: while each makes its `output` tokens in steps of `step` seconds,
    as many prompts are prefilled in `prefill` seconds each. Also the mean time between a sequence's steps."""
    steps = output / tokens_per_step
    seconds = steps * step + running * prefill
    return running * output / seconds, seconds / steps
