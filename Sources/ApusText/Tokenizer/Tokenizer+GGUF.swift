extension Tokenizer {
    /// Builds a tokenizer from a GGUF file's metadata, with llama.cpp's reading of it.
    ///
    /// Control and unknown tokens are special; user-defined ones are found in text too. Of a "llama" model two
    /// neighbouring symbols merge if together they are a token, the one of highest score first.
    /// - Throws: `TokenizerError`.
    public convenience init(gguf: GGUFVocabulary) throws(TokenizerError) {
        do {
            self.init(try GGUFReading.components(gguf))
        } catch let error as TokenizerError {
            throw error
        } catch {
            throw .invalid(String(describing: error), at: GGUFReading.place)
        }
    }
}

private enum GGUFReading {
    static let place = "tokenizer.ggml"

    static func components(_ gguf: GGUFVocabulary) throws -> TokenizerComponents {
        guard gguf.tokens.count > 0 else {
            throw TokenizerError.invalid("expected tokens, found none", at: "\(place).tokens")
        }
        if !gguf.scores.isEmpty, gguf.scores.count < gguf.tokens.count {
            throw TokenizerError.invalid(
                "expected \(gguf.tokens.count) scores, found \(gguf.scores.count)", at: "\(place).scores")
        }
        if !gguf.tokenTypes.isEmpty, gguf.tokenTypes.count < gguf.tokens.count {
            throw TokenizerError.invalid(
                "expected \(gguf.tokens.count) token types, found \(gguf.tokenTypes.count)", at: "\(place).token_type")
        }
        let vocabulary = try vocabulary(gguf.tokens)
        var components: TokenizerComponents
        var addsBOS: Bool
        switch gguf.model {
        case "gpt2":
            let pre = try GGUFPreTokenizer(name: gguf.pre)
            components = try byteLevel(gguf, vocabulary, pre)
            addsBOS = pre.addsBOS
        case "llama":
            components = try scored(gguf, vocabulary)
            addsBOS = true
        default: throw TokenizerError.unsupported(component: "model \"\(gguf.model)\"", at: "\(place).model")
        }
        addsBOS = gguf.addsBOS ?? addsBOS
        let bos = try id(gguf.bosID, "bos_token_id", vocabulary)
        let eos = try id(gguf.eosID, "eos_token_id", vocabulary)
        components.namedTokens = .init(
            bos: bos, eos: eos, unknown: try id(gguf.unknownID, "unknown_token_id", vocabulary),
            padding: try id(gguf.paddingID, "padding_token_id", vocabulary))
        if addsBOS, let bos { components.prefix = [bos] }
        if gguf.addsEOS ?? false, let eos { components.suffix = [eos] }
        return components
    }

    private static func id(_ id: Int?, _ key: String, _ vocabulary: Vocabulary) throws -> Int32? {
        guard let id else { return nil }
        guard vocabulary.spelling(id) != nil else {
            throw TokenizerError.idOutOfRange(id: id, limit: vocabulary.idBound, at: "\(place).\(key)")
        }
        return Int32(id)
    }

    private static func vocabulary(_ tokens: ByteStrings) throws -> Vocabulary {
        var builder = VocabularyBuilder()
        builder.reserve(count: Swift.min(tokens.count, Vocabulary.idLimit), byteCount: tokens.byteCount)
        for index in 0..<tokens.count {
            try tokens.withBytes(at: index) { bytes in
                if bytes.isEmpty {
                    // As llama.cpp names them, so that no two tokens are spelled alike.
                    var name = "[EMPTY_\(index)]"
                    try name.withUTF8 { try builder.add($0, id: index, at: "\(place).tokens") }
                } else {
                    if let offset = UTF8Text.firstInvalid(bytes) {
                        throw TokenizerError.invalid(
                            "expected UTF-8, found an invalid byte at offset \(offset)", at: "\(place).tokens[\(index)]"
                        )
                    }
                    try builder.add(bytes, id: index, at: "\(place).tokens")
                }
            }
        }
        return builder.build()
    }

    /// Control and unknown tokens, which are special, and user-defined ones.
    private static func addedTokens(_ gguf: GGUFVocabulary, _ vocabulary: Vocabulary) -> [AddedToken] {
        var result: [AddedToken] = []
        for (id, type) in gguf.tokenTypes.prefix(gguf.tokens.count).enumerated() {
            let isSpecial = type == GGUFTokenType.control || type == GGUFTokenType.unknown
            guard isSpecial || type == GGUFTokenType.userDefined, let spelling = vocabulary.spelling(id) else {
                continue
            }
            result.append(
                AddedToken(id: Int32(id), content: String(decoding: spelling, as: UTF8.self), isSpecial: isSpecial))
        }
        return result
    }

    private static func byteLevel(
        _ gguf: GGUFVocabulary, _ vocabulary: Vocabulary, _ pre: GGUFPreTokenizer
    ) throws -> TokenizerComponents {
        var builder = BPEModelBuilder(vocabulary, at: "\(place).merges")
        builder.reserve(gguf.merges.count)
        for index in 0..<gguf.merges.count { try gguf.merges.withBytes(at: index) { try builder.addMerge(line: $0) } }
        let model = BPEModel(
            vocabulary: vocabulary, merges: builder.mergeTable(), pairs: builder.pairs, isByteLevel: true,
            ignoresMerges: pre.ignoresMerges, unknownID: -1, fusesUnknown: false, usesByteFallback: false)
        var steps = pre.steps
        if gguf.addsSpacePrefix ?? false { steps.insert(.prefixSpace, at: 0) }
        return TokenizerComponents(
            model: model, normalizer: nil, preTokenizer: PreTokenizer(steps: steps), decoder: .byteLevel,
            addedTokens: addedTokens(gguf, vocabulary))
    }

    // MARK: Merges by score

    private static func scored(_ gguf: GGUFVocabulary, _ vocabulary: Vocabulary) throws -> TokenizerComponents {
        guard !gguf.scores.isEmpty else {
            throw TokenizerError.invalid("expected a score for each token, found none", at: "\(place).scores")
        }
        if let index = gguf.scores.prefix(gguf.tokens.count).firstIndex(where: \.isNaN) {
            throw TokenizerError.invalid("expected a number, found NaN", at: "\(place).scores[\(index)]")
        }
        let extra = try lackingCharacters(vocabulary)
        // Tokens of equal score have equal rank: the leftmost of them merges first.
        let order = (0..<vocabulary.idBound).sorted { gguf.scores[$0] > gguf.scores[$1] }
        var pairs: [(left: Int32, right: Int32)] = []
        var merges: [(rank: Int, merged: Int32)] = []
        var rank = 0
        for (index, id) in order.enumerated() {
            if index > 0, gguf.scores[order[index - 1]] != gguf.scores[id] { rank += 1 }
            let spelling = vocabulary.spelling(id)!
            var cut = UTF8Text.length(spelling[0])
            while cut < spelling.count {
                let left = symbol(UnsafeBufferPointer(rebasing: spelling[..<cut]), vocabulary, extra)
                let right = symbol(UnsafeBufferPointer(rebasing: spelling[cut...]), vocabulary, extra)
                if let left, let right {
                    pairs.append((left, right))
                    merges.append((rank, Int32(id)))
                }
                cut += UTF8Text.length(spelling[cut])
            }
        }
        var table = MergeTable(capacity: pairs.count)
        for (pair, merge) in zip(pairs, merges) {
            table.insert(left: pair.left, right: pair.right, rank: merge.rank, merged: merge.merged)
        }
        let model = BPEModel(
            vocabulary: vocabulary, merges: table, pairs: pairs, isByteLevel: false, ignoresMerges: false,
            unknownID: try id(gguf.unknownID, "unknown_token_id", vocabulary) ?? -1, fusesUnknown: false,
            usesByteFallback: true, extraSymbols: extra)
        let metaspace: [UInt8] = [0xE2, 0x96, 0x81]
        var normalizers: [Normalizer] = [.replace(.literal([0x20]), by: metaspace)]
        var decoders: [Decoder] = [.replace(.literal(metaspace), by: [0x20]), .byteFallback, .fuse]
        if gguf.addsSpacePrefix ?? true {
            normalizers.insert(.prepend(metaspace), at: 0)
            decoders.append(.strip(0x20, start: 1, stop: 0))
        }
        return TokenizerComponents(
            model: model, normalizer: .sequence(normalizers), preTokenizer: PreTokenizer(steps: []),
            decoder: .sequence(decoders), addedTokens: addedTokens(gguf, vocabulary))
    }

    private static func symbol(
        _ text: UnsafeBufferPointer<UInt8>, _ vocabulary: Vocabulary, _ extra: Vocabulary
    ) -> Int32? {
        if let id = vocabulary.id(of: text) { return id }
        return extra.id(of: text).map { $0 + Int32(vocabulary.idBound) }
    }

    /// Characters that occur in tokens but are none themselves; as symbols they can still merge.
    private static func lackingCharacters(_ vocabulary: Vocabulary) throws -> Vocabulary {
        var found: Set<[UInt8]> = []
        for id in 0..<vocabulary.idBound {
            guard let spelling = vocabulary.spelling(id) else { continue }
            var index = 0
            while index < spelling.count {
                let length = UTF8Text.length(spelling[index])
                let character = UnsafeBufferPointer(rebasing: spelling[index..<index + length])
                if vocabulary.id(of: character) == nil { found.insert(Array(character)) }
                index += length
            }
        }
        var builder = VocabularyBuilder()
        for (index, character) in found.sorted(by: { $0.lexicographicallyPrecedes($1) }).enumerated() {
            try character.withUnsafeBufferPointer { try builder.add($0, id: index, at: "\(place).tokens") }
        }
        return builder.build()
    }
}
