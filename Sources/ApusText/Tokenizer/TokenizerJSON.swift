/// Reads a `tokenizer.json`. Vocabulary and merges, nearly all of the file, are taken up as they are parsed.
struct TokenizerJSON {
    private let name: String
    private var vocabulary: Vocabulary?
    private var builder: BPEModelBuilder?
    /// Merges that came before the vocabulary.
    private var modelSettings = JSONObject()
    private var settings = JSONObject()

    /// Parses and builds.
    /// - Throws: `TokenizerError`.
    static func load(_ bytes: UnsafeRawBufferPointer, name: String) throws(TokenizerError) -> TokenizerComponents {
        do {
            var reader = TokenizerJSON(name: name)
            try reader.read(bytes)
            return try reader.components()
        } catch let error as JSONError {
            throw .json(file: name, error)
        } catch let error as TokenizerError {
            throw error
        } catch {
            throw .invalid(String(describing: error), at: name)
        }
    }

    private init(name: String) { self.name = name }

    // MARK: Parsing

    private mutating func read(_ bytes: UnsafeRawBufferPointer) throws {
        var parser = JSONParser(
            bytes: bytes, depthLimit: JSONValue.defaultDepthLimit, duplicateKeys: .lastHolds)
        var reader = self
        try parser.forEachMember { parser, key in
            if key == "model", parser.peek == UInt8(ascii: "{") {
                try reader.readModel(&parser)
            } else {
                reader.settings[key] = try parser.parseValue(depth: 0)
            }
        }
        parser.skipSpace()
        guard parser.position == bytes.count else { throw parser.unexpected("the end of the document") }
        self = reader
    }

    private mutating func readModel(_ parser: inout JSONParser) throws {
        var reader = self
        var mergesPosition: Int?
        try parser.forEachMember { parser, key in
            if key == "vocab", parser.peek == UInt8(ascii: "{") {
                try reader.readVocabulary(&parser)
            } else if key == "merges", parser.peek == UInt8(ascii: "[") {
                guard reader.vocabulary != nil else {
                    mergesPosition = parser.position
                    _ = try parser.parseValue(depth: 0)
                    return
                }
                try reader.readMerges(&parser)
            } else {
                reader.modelSettings[key] = try parser.parseValue(depth: 0)
            }
        }
        if let mergesPosition, reader.vocabulary != nil {
            let end = parser.position
            parser.position = mergesPosition
            try reader.readMerges(&parser)
            parser.position = end
        }
        self = reader
    }

    private mutating func readVocabulary(_ parser: inout JSONParser) throws {
        var builder = VocabularyBuilder()
        let name = name
        // A guess that is right for English vocabularies and only saves growing.
        builder.reserve(
            count: Swift.min(parser.bytes.count / 40, Vocabulary.idLimit), byteCount: parser.bytes.count / 8)
        try parser.forEachMember { parser, key in
            let id = try parser.requireInteger()
            var key = key
            try key.withUTF8 { try builder.add($0, id: id, at: "\(name): model.vocab") }
        }
        vocabulary = builder.build()
    }

    private mutating func readMerges(_ parser: inout JSONParser) throws {
        var builder = BPEModelBuilder(vocabulary!, at: name)
        builder.reserve(Swift.min(parser.bytes.count / 20, 1 << 20))
        try parser.forEachElement { parser in
            if parser.peek == UInt8(ascii: "\"") {
                var line = try parser.parseString()
                if line.hasPrefix("#version") { return }
                try line.withUTF8 { try builder.addMerge(line: $0) }
                return
            }
            var left = ""
            var right = ""
            var count = 0
            try parser.forEachElement { parser in
                let part = try parser.requireString()
                if count == 0 { left = part } else { right = part }
                count += 1
            }
            guard count == 2 else { throw parser.unexpected("a merge of two tokens before this") }
            try left.withUTF8 { left in try right.withUTF8 { right in try builder.addMerge(left, right) } }
        }
        self.builder = builder
    }

    // MARK: Building

    private func components() throws -> TokenizerComponents {
        let root = JSONNode(.object(settings), name: name)
        if let version = try root.optional("version")?.string(), version != "1.0" {
            throw TokenizerError.unsupported(component: "version \"\(version)\"", at: name)
        }
        let preTokenizer = try PreTokenizerReader.read(try root.optional("pre_tokenizer"))
        let model = try model(isByteLevel: preTokenizer.isByteLevel)
        let normalizer = try root.optional("normalizer").map(NormalizerReader.read)
        var components = TokenizerComponents(
            model: model, normalizer: normalizer, preTokenizer: preTokenizer.preTokenizer,
            decoder: try root.optional("decoder").map(DecoderReader.read),
            addedTokens: try addedTokens(root, model.vocabulary))
        if let processor = try root.optional("post_processor") {
            (components.prefix, components.suffix) = try PostProcessorReader.read(processor)
        }
        components.namedTokens.unknown = model.unknownID >= 0 ? model.unknownID : nil
        return components
    }

    private func model(isByteLevel: Bool) throws -> BPEModel {
        let node = JSONNode(.object(modelSettings), name: "\(name): model")
        let type = try node.optional("type")?.string() ?? "BPE"
        guard type == "BPE" else { throw TokenizerError.unsupported(component: "model \"\(type)\"", at: name) }
        guard let vocabulary else {
            throw JSONError.missing(path: "model.vocab", expected: "an object of tokens and ids")
        }
        guard let builder else { throw JSONError.missing(path: "model.merges", expected: "an array of merges") }
        for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
            if let text = try node.optional(key)?.string(), !text.isEmpty {
                throw TokenizerError.unsupported(component: "\(key) \"\(text)\"", at: "\(name): model")
            }
        }
        let usesFallback = try node.bool("byte_fallback", default: false)
        var unknownID: Int32 = -1
        if let token = try node.optional("unk_token")?.string() {
            if let id = vocabulary.id(of: token) {
                unknownID = id
            } else if !isByteLevel {
                throw TokenizerError.unknownToken(token, at: "\(name): model.unk_token")
            }
        }
        return BPEModel(
            vocabulary: vocabulary, merges: builder.mergeTable(), pairs: builder.pairs, isByteLevel: isByteLevel,
            ignoresMerges: try node.bool("ignore_merges", default: false), unknownID: unknownID,
            fusesUnknown: try node.bool("fuse_unk", default: false), usesByteFallback: usesFallback)
    }

    /// The added tokens. One that the model knows has the model's id, the others follow the vocabulary in order,
    /// whatever the file says: that is how `tokenizers` numbers them.
    private func addedTokens(_ root: JSONNode, _ vocabulary: Vocabulary) throws -> [AddedToken] {
        guard let list = try root.optional("added_tokens") else { return [] }
        var byID: [Int32: AddedToken] = [:]
        var ids: [[UInt8]: Int32] = [:]
        var next = Int32(vocabulary.count)
        for node in try list.elements() {
            let content = try node.string("content")
            _ = try node.child("id").int(in: 0...Vocabulary.idLimit - 1)
            if content.isEmpty { continue }
            let id: Int32
            if let known = ids[Array(content.utf8)] ?? vocabulary.id(of: content) {
                id = known
            } else {
                id = next
                next += 1
            }
            ids[Array(content.utf8)] = id
            let isSpecial = try node.bool("special")
            byID[id] = AddedToken(
                id: id, content: content, isSpecial: isSpecial, isSingleWord: try node.bool("single_word"),
                stripsLeft: try node.bool("lstrip"), stripsRight: try node.bool("rstrip"),
                isNormalized: try node.bool("normalized"))
        }
        return byID.values.sorted { $0.id < $1.id }
    }
}
