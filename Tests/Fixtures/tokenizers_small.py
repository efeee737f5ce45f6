"""Writes Tests/Fixtures/tokenizers.json: small tokenizers of every supported kind, and what the Python package
`tokenizers` makes of tricky texts with them.

    pip install tokenizers==0.23.3
    python Tests/Fixtures/tokenizers_small.py

The file holds the models once ("models"), and for each tokenizer its other parts, the ids of each text and the text of
each list of ids.
"""

import json
import random
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = Path(__file__).parent
TRICKY = [
    "", " ", "  ", "a", "Hello, world!", "The cat's paw; we'll see, I'D say IT'S 'ſo.", " leading and trailing  ",
    "tabs\tand\nnew\r\n\r\nlines \n x", "1234567 12 3.14 ½²", "the<s>the <mask> end<mask>", "<s></s><s>", "pre<user>fix user user_",
    "e\u0301 \u00e9 \u1e69 s\u0323\u0307", "\ufb01 \u2460 \uff21\uff22 \u3392", "\uac00\u1100\u1161\u11a8", "ÀÉÎ ÇŞİ ẞ",
    "\u4f60\u597d\u4e16\u754c 日本語テキスト", "Привет, мир", "مرحبا بالعالم", "👩‍🚀👍🏽 flags 🇩🇪", "\u00a0nbsp\u3000wide\u2003",
    "\u2581already\u2581\u2581there", "a\u200db\u200cc", "\ufffd\ufeff\u0000\u0007", "don't DON'T we're they'VE", "x" * 70,
    "<0x41><0xE4>", "if (a[i] != b) { return \"no\"; }", "snake_case camelCase kebab-case", "مُحَمَّد नमस्ते",
    "a  <mask>  b", "the\u0301 the", "THE The tHe", "...!!!???", "mail@example.com http://a.b/c?d=e", "\U000e0041\U0001f9ff",
]


def texts():
    rnd = random.Random(11)
    blocks = [(32, 127), (32, 127), (0x80, 0x250), (0x300, 0x370), (0x400, 0x460), (0x2000, 0x2070), (0x3040, 0x30ff),
              (0x4e00, 0x4e80), (0xac00, 0xac80), (0x1f600, 0x1f640), (0, 0x3000), (0x10000, 0x20000)]
    result = list(TRICKY)
    for _ in range(24):
        text = ""
        for _ in range(rnd.randrange(2, 9)):
            if rnd.random() < 0.4:
                text += rnd.choice(["the", " and", " <s>", "'s", "  ", "\n", "12", " the cat", "<mask>", "user"])
            else:
                low, high = rnd.choice(blocks)
                text += "".join(chr(rnd.randrange(low, high)) for _ in range(rnd.randrange(1, 5)))
        result.append(text)
    return result


CORPUS = [
    "the cat sat on the mat and the dog sat on the log; they're all here, and that's that.",
    "we'll see what the user said: 12 cats, 34 dogs and 567 birds in 2024!",
    "if (a == b) { return the value; } else { other the[12] = 3.14; }",
    "été déjà vu naïve façade, Привет мир, 你好世界 日本語 नमस्ते é ṩ",
    "  indented text\n\n  and more text\r\n", "user users used using usage", "HELLO Hello hello the The THE",
] * 3


def train(pre_tokenizer, normalizer=None, size=400, alphabet=None, unk=None, special=("<s>", "</s>")):
    tokenizer = Tokenizer(models.BPE(unk_token=unk))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    extra = [unk] if unk and unk not in special else []
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=extra + list(special), initial_alphabet=alphabet or [], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return json.loads(tokenizer.to_str())["model"]


def byte_level_model():
    return train(pre_tokenizers.ByteLevel(add_prefix_space=False), alphabet=pre_tokenizers.ByteLevel.alphabet())


def sentence_model():
    """As Llama 2's: no pre-tokenizer, U+2581 for spaces, byte tokens."""
    model = train(pre_tokenizers.Metaspace(), size=260, unk="<unk>", special=("<unk>", "<s>", "</s>"))
    tokens = list(model["vocab"])
    keep = tokens[:3] + [f"<0x{b:02X}>" for b in range(256)] + tokens[3:]
    return dict(model, vocab={t: i for i, t in enumerate(keep)}, byte_fallback=True, fuse_unk=True)


def character_model():
    """Characters and merges, everything else unknown."""
    return train(pre_tokenizers.Whitespace(), size=180, unk="<unk>", special=("<unk>", "<s>"))


LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
GPT4O = (rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*"
         r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
GPT4 = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+")
P, N, D = pre_tokenizers, normalizers, decoders
BYTES = P.ByteLevel(add_prefix_space=False, use_regex=False)
LLAMA2 = D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse(), D.Strip(" ", 1, 0)])


def split(pattern, behavior="isolated", invert=False):
    return P.Split(Regex(pattern), behavior, invert)


def variants():
    """Name, model, normalizer, pre-tokenizer, decoder, post-processor, changes of the model."""
    byte = P.ByteLevel(add_prefix_space=False)
    return [
        ("gpt2", "byteLevel", None, byte, D.ByteLevel(), processors.ByteLevel(), {}),
        ("prefix-space", "byteLevel", None, P.ByteLevel(add_prefix_space=True), D.ByteLevel(),
         processors.RobertaProcessing(("</s>", 1), ("<s>", 0)), {}),
        ("no-regex", "byteLevel", None, BYTES, D.ByteLevel(), None, {}),
        ("llama3", "byteLevel", None, P.Sequence([split(LLAMA3 % "{1,3}"), BYTES]), D.ByteLevel(),
         processors.Sequence([processors.ByteLevel(), processors.TemplateProcessing(
             single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)])]), {"ignore_merges": True}),
        ("qwen2", "byteLevel", N.NFC(), P.Sequence([split(LLAMA3 % ""), BYTES]), D.ByteLevel(), None, {}),
        ("smollm", "byteLevel", None, P.Sequence([P.Digits(True), byte]), D.ByteLevel(), None, {}),
        ("gpt4", "byteLevel", None, P.Sequence([split(GPT4), BYTES]), D.ByteLevel(), None, {}),
        ("gpt4o", "byteLevel", None, P.Sequence([split(GPT4O), BYTES]), D.ByteLevel(), None, {}),
        ("deepseek", "byteLevel", N.Sequence([]), P.Sequence([
            split("[\r\n]"), split(r"\s?[\p{L}]+"), split(r"\s?\p{P}+"), split("[一-龥ࠀ-一가-퟿]+"), P.Digits(True), BYTES]),
         D.ByteLevel(), None, {}),
        ("han", "byteLevel", None, P.Sequence([split(r"[\p{Han}]+|\d{2,}?|(?<=a)b|x{2}|[^\W\d]+$"), BYTES]), D.ByteLevel(), None, {}),
        ("contiguous", "byteLevel", None, P.Sequence([
            P.Digits(False), split(r"\s+", "merged_with_next"), split("[aeiou]", "merged_with_previous"), BYTES]),
         D.ByteLevel(), None, {}),
        ("inverted", "byteLevel", None, P.Sequence([split(r"\p{L}+|\p{N}+", "removed", True), BYTES]), D.ByteLevel(), None, {}),
        ("byte-level-first", "byteLevel", None, P.Sequence([byte, P.Digits(True)]), D.ByteLevel(), None, {}),
        ("byte-level-normalizer", "byteLevel", N.ByteLevel(), split(r"Ġ?\w+"), D.ByteLevel(), None, {}),
        ("nfkc-lower", "byteLevel", N.Sequence([N.NFKC(), N.Lowercase()]), byte, D.ByteLevel(), None, {}),
        ("accents", "byteLevel", N.Sequence([N.NFD(), N.StripAccents(), N.Strip()]), byte, D.ByteLevel(), None, {}),
        ("nfkd", "byteLevel", N.NFKD(), byte, D.ByteLevel(), None, {}),
        ("replace", "byteLevel", N.Sequence([N.Replace(Regex(r"\s+"), " "), N.Replace("the", "THE"), N.Nmt()]), byte,
         D.ByteLevel(), None, {}),
        ("chunks", "byteLevel", None, P.Sequence([P.FixedLength(3), BYTES]), D.ByteLevel(), None, {}),
        ("llama2", "sentence", N.Sequence([N.Prepend("▁"), N.Replace(" ", "▁")]), None, LLAMA2,
         processors.TemplateProcessing(single="<s> $A", pair="$A $B", special_tokens=[("<s>", 1)]), {}),
        ("gemma", "sentence", N.Replace(" ", "▁"), P.Split(" ", "merged_with_previous"),
         D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse()]), None, {}),
        ("metaspace-first", "sentence", None, P.Metaspace(prepend_scheme="first"), D.Metaspace(prepend_scheme="first"), None, {}),
        ("metaspace-always", "sentence", None, P.Metaspace(prepend_scheme="always", split=False),
         D.Metaspace(prepend_scheme="always"), None, {}),
        ("metaspace-never", "sentence", None, P.Metaspace(prepend_scheme="never"), D.Metaspace(prepend_scheme="never"), None, {}),
        ("no-fallback", "sentence", N.Replace(" ", "▁"), None, D.Sequence([D.Strip("▁", 1, 0), D.Fuse()]), None,
         {"byte_fallback": False}),
        ("unknown", "characters", None, P.Whitespace(), None, None, {"fuse_unk": False}),
        ("unknown-fused", "characters", None, P.WhitespaceSplit(), D.Fuse(), None, {"fuse_unk": True}),
        ("punctuation", "characters", None, P.Sequence([P.CharDelimiterSplit(" "), P.Punctuation("isolated")]), D.Fuse(), None, {}),
        ("punctuation-merged", "characters", None, P.Sequence([P.WhitespaceSplit(), P.Punctuation("merged_with_previous")]),
         D.Fuse(), None, {"unk_token": None}),
    ]


ADDED = [
    AddedToken("<s>", special=True, normalized=False),
    AddedToken("</s>", special=True, normalized=False, single_word=True),
    AddedToken("<mask>", special=True, normalized=False, lstrip=True, rstrip=True),
    AddedToken("user", special=False, normalized=True, single_word=True),
    AddedToken("<user>", special=False, normalized=False),
    AddedToken("The", special=False, normalized=True),
]


def training():
    """A vocabulary trained on the corpus, byte by byte."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = P.Sequence([P.Digits(True), P.ByteLevel(add_prefix_space=False)])
    trainer = trainers.BpeTrainer(
        vocab_size=480, min_frequency=2, special_tokens=["<s>", "</s>"], initial_alphabet=P.ByteLevel.alphabet(),
        show_progress=False)
    corpus = CORPUS + TRICKY
    tokenizer.train_from_iterator(corpus, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return {"corpus": corpus, "size": 480, "tokens": sorted(model["vocab"], key=model["vocab"].get), "merges": model["merges"]}


def main():
    fixture = {"texts": texts(), "models": {}, "tokenizers": [], "training": training()}
    built = {"byteLevel": byte_level_model(), "sentence": sentence_model(), "characters": character_model()}
    fixture["models"] = built
    rnd = random.Random(5)
    for name, model, normalizer, pre_tokenizer, decoder, processor, changes in variants():
        text = json.dumps({"version": "1.0", "model": dict(built[model], **changes)})
        tokenizer = Tokenizer.from_str(text)
        for part, value in [("normalizer", normalizer), ("pre_tokenizer", pre_tokenizer), ("decoder", decoder),
                            ("post_processor", processor)]:
            if value is not None:
                setattr(tokenizer, part, value)
        tokenizer.add_tokens(ADDED)
        whole = json.loads(tokenizer.to_str())
        ids = [tokenizer.encode(t, add_special_tokens=True).ids for t in fixture["texts"]]
        tokenizer.encode_special_tokens = True
        plain = [tokenizer.encode(t, add_special_tokens=False).ids for t in fixture["texts"]]
        size = tokenizer.get_vocab_size()
        sequences = ids[:10] + [[rnd.randrange(size) for _ in range(rnd.randrange(1, 9))] for _ in range(20)]
        sequences += [[s[0]] + [i for i in s] for s in sequences[-4:]]
        del whole["model"], whole["truncation"], whole["padding"]
        fixture["tokenizers"].append({
            "name": name, "model": model, "changes": changes, "parts": whole, "size": size, "ids": ids,
            "plain": {str(i): p for i, (p, q) in enumerate(zip(plain, ids)) if p != q},
            "decoded": [[s, tokenizer.decode(s, skip_special_tokens=True), tokenizer.decode(s, skip_special_tokens=False)]
                        for s in sequences]})
    (HERE / "tokenizers.json").write_text(json.dumps(fixture, ensure_ascii=False, separators=(",", ":")))


if __name__ == "__main__":
    main()
