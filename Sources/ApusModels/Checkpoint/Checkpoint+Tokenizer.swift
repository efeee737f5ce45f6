import ApusText

extension Checkpoint {
    /// Builds the model's tokenizer, wherever its files keep it.
    /// - Throws: `TokenizerError`; ``ModelFileError/noTokenizer(file:)`` when there is none.
    public func loadTokenizer() throws -> Tokenizer {
        switch tokenizer {
        case .file(let path): try Tokenizer(contentsOf: path)
        case .gguf(let metadata): try Tokenizer(gguf: GGUFVocabulary(metadata))
        case .none: throw ModelFileError.noTokenizer(file: name)
        }
    }
}

extension GGUFVocabulary {
    /// The vocabulary in a GGUF file's metadata (`tokenizer.ggml.*`).
    /// - Throws: ``ModelFileError`` when a key has the wrong type, or model or tokens are missing.
    public init(_ metadata: GGUFMetadata) throws {
        let prefix = "tokenizer.ggml."
        guard let model = try metadata.string(prefix + "model"),
            let spellings = try metadata.array(prefix + "tokens", of: .string)
        else { throw ModelFileError.noTokenizer(file: metadata.fileName) }
        self.init(model: model, pre: try metadata.string(prefix + "pre"))
        tokens = ByteStrings(spellings)
        if let list = try metadata.array(prefix + "merges", of: .string) { merges = ByteStrings(list) }
        scores = try metadata.array(prefix + "scores", of: .float32)?.numbers?.map(Float.init) ?? []
        tokenTypes =
            try metadata.array(prefix + "token_type", of: .int32, .uint32)?.integers?.map { Int32(clamping: $0) } ?? []
        bosID = try metadata.integer(prefix + "bos_token_id")
        eosID = try metadata.integer(prefix + "eos_token_id")
        unknownID = try metadata.integer(prefix + "unknown_token_id")
        paddingID = try metadata.integer(prefix + "padding_token_id")
        addsBOS = try metadata.bool(prefix + "add_bos_token")
        addsEOS = try metadata.bool(prefix + "add_eos_token")
        addsSpacePrefix = try metadata.bool(prefix + "add_space_prefix")
    }
}

extension ByteStrings {
    /// The strings of an array in a GGUF file.
    fileprivate init(_ strings: GGUFArray) {
        self.init()
        reserve(count: strings.count, byteCount: strings.withBytes { $0.count })
        strings.forEachString { append($0) }
    }
}
