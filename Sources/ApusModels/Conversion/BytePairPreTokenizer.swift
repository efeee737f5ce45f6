import ApusText

/// The pre-tokenizers of byte-level BPE that have a name in GGUF (`tokenizer.ggml.pre`), and how `tokenizer.json` says the
/// same.
enum BytePairPreTokenizer: String, CaseIterable {
    case gpt2 = "gpt-2"
    case smolLM = "smollm"
    case llama3 = "llama-bpe"
    case qwen2

    /// The pre-tokenizer of a name, where it is one of these.
    init?(ggufName name: String?) {
        switch name ?? "default" {
        case "default", "gpt-2", "gpt2": self = .gpt2
        case "smollm", "starcoder", "refact": self = .smolLM
        case "llama3", "llama-v3", "llama-bpe": self = .llama3
        case "qwen2": self = .qwen2
        default: return nil
        }
    }

    /// The pre-tokenizer that a `tokenizer.json` describes, where it is one of these.
    init?(json: JSONValue?) {
        guard let json else { return nil }
        guard let found = Self.allCases.first(where: { $0.isSame(json) }) else { return nil }
        self = found
    }

    /// Whether a word that is a token is that token, whatever the merges say.
    var ignoresMerges: Bool { self == .llama3 }

    /// The `pre_tokenizer` of `tokenizer.json`.
    var json: JSONValue {
        switch self {
        case .gpt2: return Self.byteLevel(usesRegex: true)
        case .smolLM:
            let digits: JSONValue = ["type": "Digits", "individual_digits": true]
            return ["type": "Sequence", "pretokenizers": [digits, Self.byteLevel(usesRegex: true)]]
        case .llama3: return Self.split(#"\p{N}{1,3}"#)
        case .qwen2: return Self.split(#"\p{N}"#)
        }
    }

    private static func byteLevel(usesRegex: Bool) -> JSONValue {
        ["type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": .bool(usesRegex)]
    }

    private static func split(_ numbers: String) -> JSONValue {
        let pattern =
            #"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"# + numbers
            + #"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"#
        let words: JSONValue = [
            "type": "Split", "pattern": ["Regex": .string(pattern)], "behavior": "Isolated", "invert": false,
        ]
        return ["type": "Sequence", "pretokenizers": [words, byteLevel(usesRegex: false)]]
    }

    /// Whether two descriptions cut alike: offsets do not matter.
    private func isSame(_ other: JSONValue) -> Bool {
        func steps(_ value: JSONValue) -> [[String: String]] {
            (value["pretokenizers"]?.arrayValue ?? [value]).map { step in
                let keys = [
                    "type", "individual_digits", "add_prefix_space", "use_regex", "pattern", "behavior", "invert",
                ]
                return Dictionary(
                    uniqueKeysWithValues: keys.compactMap { key in step[key].map { (key, $0.serialized()) } })
            }
        }
        return steps(json) == steps(other)
    }
}
