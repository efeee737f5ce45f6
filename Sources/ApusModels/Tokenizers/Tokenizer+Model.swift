import ApusText

extension GGUFVocabulary {
    /// The tokenizer in a GGUF file's metadata.
    /// - Throws: `ModelFileError` where `tokenizer.ggml.model` or `tokenizer.ggml.tokens` is missing or a key has
    ///   another type.
    public init(_ metadata: GGUFMetadata) throws {
        let prefix = "tokenizer.ggml."
        guard let model = try metadata.string(prefix + "model") else { throw metadata.missing(prefix + "model") }
        guard let tokens = try metadata.array(prefix + "tokens", of: .string) else {
            throw metadata.missing(prefix + "tokens")
        }
        self.init(model: model, pre: try metadata.string(prefix + "pre"))
        self.tokens = ByteStrings(tokens)
        if let merges = try metadata.array(prefix + "merges", of: .string) { self.merges = ByteStrings(merges) }
        if let scores = try metadata.array(prefix + "scores", of: .float32, .int32) {
            self.scores = scores.numbers!.map { Float($0) }
        }
        if let types = try metadata.array(prefix + "token_type", of: .int32, .uint32) {
            tokenTypes = types.integers!.map { Int32(clamping: $0) }
        }
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
    fileprivate init(_ array: GGUFArray) {
        self.init()
        reserve(count: array.count, byteCount: array.withBytes(\.count))
        array.forEachString { append($0) }
    }
}

extension GGUFMetadata {
    fileprivate func missing(_ key: String) -> ModelFileError {
        .malformed(file: fileName, place: "key \(key)", expected: "a value", found: "nothing")
    }
}

extension Tokenizer {
    /// The tokenizer in the text of a `tokenizer.json`, with the tokens that GGUF metadata names; `name` is what errors call
    /// the file that holds them.
    convenience init(tokenizerJSON text: String, _ metadata: GGUFMetadata, name: String) throws {
        func token(_ key: String) throws -> Int32? {
            try metadata.integer("tokenizer.ggml.\(key)_token_id").flatMap { Int32(exactly: $0) }
        }
        let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: text.utf8.count, alignment: 1)
        defer { bytes.deallocate() }
        bytes.copyBytes(from: text.utf8)
        try self.init(
            tokenizerJSON: UnsafeRawBufferPointer(bytes), name: name,
            namedTokens: NamedTokens(
                bos: try token("bos"), eos: try token("eos"), unknown: try token("unknown"),
                padding: try token("padding")))
    }

    /// The tokenizer of a model: a GGUF file, a `tokenizer.json`, or a folder that holds one.
    /// - Throws: `ModelFileError` or `TokenizerError`.
    public convenience init(model path: String) throws {
        if path.hasSuffix(".gguf") {
            let metadata = try GGUFFile(path: path).metadata
            if let text = metadata[GGUFCheckpoint.tokenizerKey]?.string {
                try self.init(tokenizerJSON: text, metadata, name: path)
            } else {
                try self.init(gguf: GGUFVocabulary(metadata))
            }
        } else {
            try self.init(contentsOf: path)
        }
    }
}

extension Checkpoint {
    /// Builds the model's tokenizer, wherever its files keep it.
    /// - Throws: `TokenizerError`; ``ModelFileError/noTokenizer(file:)`` when there is none.
    public func loadTokenizer() throws -> Tokenizer {
        switch tokenizer {
        case .file(let path): try Tokenizer(contentsOf: path)
        case .text(let text, let metadata): try Tokenizer(tokenizerJSON: text, metadata, name: name)
        case .gguf(let metadata): try Tokenizer(gguf: GGUFVocabulary(metadata))
        case .none: throw ModelFileError.noTokenizer(file: name)
        }
    }
}
