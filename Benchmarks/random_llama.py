"""Writes Llama models with random weights in the shape of SmolLM2-135M, as Hugging Face folders: what runs are measured with
where the trained weights are not at hand. Needs numpy.

The tokenizer has 49,152 tokens that stand for themselves: the text of any tokens becomes about as many again, as a real
text's would, so that a reward model reads outputs of a real length. A token is " bacada": a space and up to three syllables of a
consonant and a vowel, whose merges meet in one way only.
"""

import itertools
import json
import random
import struct
from pathlib import Path

import numpy as np

VOCABULARY, WIDTH, INNER, LAYERS, HEADS, GROUPS, HEAD = 49152, 576, 1536, 30, 9, 3, 64
END = "<|endoftext|>"
SYLLABLES = ["".join(pair) for pair in itertools.product("bcdfghjklmnpqrstvwxyz", "aeiou")]


def words():
    """The tokens of a space and three syllables, in the order of their ids."""
    count = VOCABULARY - 1 - 256 - 2 * len(SYLLABLES) - len(SYLLABLES) ** 2
    return list(itertools.islice(itertools.product(SYLLABLES, repeat=3), count))


def prompts(count, seed=1):
    """Texts of 24 to 40 tokens."""
    numbers, choice = random.Random(seed), words()
    return [" " + " ".join("".join(w) for w in numbers.choices(choice, k=numbers.randint(24, 40))) for _ in range(count)]


def tokenizer():
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    bytes_ = [chr(b) if b in shown else chr(256 + i) for b, i in zip(range(256), hidden_places(shown))]
    space = chr(0x120)
    merges = [(s[0], s[1]) for s in SYLLABLES] + [(space, s) for s in SYLLABLES]
    merges += [(space + a, b) for a, b in itertools.product(SYLLABLES, repeat=2)]
    merges += [(space + a + b, c) for a, b, c in words()]
    tokens = [END] + bytes_ + [a + b for a, b in merges]
    assert len(tokens) == len(set(tokens)) == VOCABULARY
    level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
    return dict(
        version="1.0", truncation=None, padding=None, normalizer=None, pre_tokenizer=level, post_processor=None,
        decoder=level,
        added_tokens=[
            dict(id=0, content=END, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)],
        model=dict(
            type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None, end_of_word_suffix=None,
            fuse_unk=False, byte_fallback=False, ignore_merges=False, vocab={t: i for i, t in enumerate(tokens)},
            merges=[f"{a} {b}" for a, b in merges]))


def hidden_places(shown):
    """For each byte how many before it have no character of their own."""
    place = 0
    for byte in range(256):
        yield place
        place += byte not in shown


def write(folder, seed, layers=LAYERS, scores=False):
    """A language model, or with `scores` a reward model of one label."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    config = dict(
        architectures=["LlamaForSequenceClassification" if scores else "LlamaForCausalLM"], model_type="llama",
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=layers,
        num_attention_heads=HEADS, num_key_value_heads=GROUPS, head_dim=HEAD, hidden_act="silu", rms_norm_eps=1e-5,
        rope_theta=100000.0, max_position_embeddings=2048, tie_word_embeddings=True, attention_bias=False, mlp_bias=False,
        bos_token_id=0, eos_token_id=0, pad_token_id=0, torch_dtype="bfloat16")
    if scores:
        config["id2label"], config["label2id"] = {"0": "LABEL_0"}, {"LABEL_0": 0}
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(dict(tokenizer_class="PreTrainedTokenizerFast", eos_token=END, bos_token=END, pad_token=END)))
    shapes = {"model.embed_tokens.weight": (VOCABULARY, WIDTH), "model.norm.weight": (WIDTH,)}
    for layer in range(layers):
        for name, shape in [
            ("input_layernorm", (WIDTH,)), ("post_attention_layernorm", (WIDTH,)),
            ("self_attn.q_proj", (HEADS * HEAD, WIDTH)), ("self_attn.k_proj", (GROUPS * HEAD, WIDTH)),
            ("self_attn.v_proj", (GROUPS * HEAD, WIDTH)), ("self_attn.o_proj", (WIDTH, HEADS * HEAD)),
            ("mlp.gate_proj", (INNER, WIDTH)), ("mlp.up_proj", (INNER, WIDTH)), ("mlp.down_proj", (WIDTH, INNER)),
        ]:
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    if scores:
        shapes["score.weight"] = (1, WIDTH)
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = dict(dtype="BF16", shape=shape, data_offsets=[offset, offset + size])
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    numbers = np.random.default_rng(seed)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for shape in shapes.values():
            values = np.ones(shape, np.float32)
            if len(shape) == 2:
                values = numbers.standard_normal(shape, np.float32) * 0.02
            file.write((values.view(np.uint32) >> 16).astype("<u2").tobytes())
    return folder
