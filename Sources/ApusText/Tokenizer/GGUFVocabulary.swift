/// The tokenizer of a GGUF file, as its `tokenizer.ggml.*` metadata has it. Strings stay bytes in one block: a model of
/// 50,000 tokens opens in milliseconds.
public struct GGUFVocabulary: Sendable {
    /// `tokenizer.ggml.model`: "gpt2" (byte-level BPE) or "llama" (SentencePiece BPE, merges by score).
    public var model: String
    /// `tokenizer.ggml.pre`, the name of the pre-tokenizer; only "gpt2" models have one.
    public var pre: String?
    /// `tokenizer.ggml.tokens`, by id.
    public var tokens = ByteStrings()
    /// `tokenizer.ggml.scores`, by id; empty where the file has none.
    public var scores: [Float] = []
    /// `tokenizer.ggml.token_type`, by id: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte; empty
    /// where the file has none.
    public var tokenTypes: [Int32] = []
    /// `tokenizer.ggml.merges`, each two tokens around a space, best first.
    public var merges = ByteStrings()
    /// `tokenizer.ggml.bos_token_id`.
    public var bosID: Int?
    /// `tokenizer.ggml.eos_token_id`.
    public var eosID: Int?
    /// `tokenizer.ggml.unknown_token_id`.
    public var unknownID: Int?
    /// `tokenizer.ggml.padding_token_id`.
    public var paddingID: Int?
    /// `tokenizer.ggml.add_bos_token`; nil leaves it to the model kind.
    public var addsBOS: Bool?
    /// `tokenizer.ggml.add_eos_token`.
    public var addsEOS: Bool?
    /// `tokenizer.ggml.add_space_prefix`; nil leaves it to the model kind.
    public var addsSpacePrefix: Bool?

    /// A vocabulary of a kind, still without tokens.
    public init(model: String, pre: String? = nil) {
        self.model = model
        self.pre = pre
    }
}

/// The values of `GGUFVocabulary.tokenTypes`.
enum GGUFTokenType {
    static let unknown: Int32 = 2
    static let control: Int32 = 3
    static let userDefined: Int32 = 4
}
