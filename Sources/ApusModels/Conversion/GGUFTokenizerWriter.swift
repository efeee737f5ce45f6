import ApusText

/// A model's tokenizer and chat template as GGUF metadata: the whole `tokenizer.json` under its own key and, of byte-level
/// BPE with a pre-tokenizer that GGUF has a name for, ggml's vocabulary as well.
enum GGUFTokenizerWriter {
    /// The metadata; what cannot be carried over is noted.
    static func entries(
        _ checkpoint: any Checkpoint, _ notes: inout [String]
    ) throws -> [(key: String, value: GGUFValue)] {
        var entries: [(key: String, value: GGUFValue)] = []
        switch checkpoint.tokenizer {
        case .gguf(let metadata), .text(_, let metadata):
            entries = metadata.entries.filter {
                $0.key.hasPrefix("tokenizer.") || $0.key.hasPrefix("general.sampling.") || $0.key == "general.name"
            }
        case .file(let path):
            let file = try MappedFile(path: path)
            guard let text = file.text(0..<file.byteCount) else {
                throw ModelFileError.malformed(file: path, place: "text", expected: "valid UTF-8", found: "other bytes")
            }
            entries.append((GGUFCheckpoint.tokenizerKey, .string(text)))
            if let vocabulary = try vocabulary(file.json()) {
                entries += vocabulary
            } else {
                notes.append("the tokenizer is carried as tokenizer.json alone, which llama.cpp does not read")
            }
            entries += try namedTokens(checkpoint)
            if let template = try checkpoint.chatTemplate() {
                entries.append(("tokenizer.chat_template", .string(template)))
            }
            entries += sampling(checkpoint.generationDefaults)
        case .none:
            entries.append(("tokenizer.ggml.model", .string("none")))
            notes.append("the model has no tokenizer")
        }
        return entries
    }

    private static func namedTokens(_ checkpoint: any Checkpoint) throws -> [(key: String, value: GGUFValue)] {
        let named = try checkpoint.loadTokenizer().namedTokens
        var entries: [(key: String, value: GGUFValue)] = []
        func id(_ name: String, _ value: Int32?) {
            if let value, value >= 0 { entries.append(("tokenizer.ggml.\(name)_token_id", .uint32(UInt32(value)))) }
        }
        id("bos", named.bos)
        id("unknown", named.unknown)
        id("padding", named.padding)
        var ends = checkpoint.configuration.eosTokens.map { Int32($0) }
        if let eos = named.eos { ends = [eos] + ends.filter { $0 != eos } }
        for (name, token) in zip(["eos", "eot", "eom"], ends) { id(name, token) }
        return entries
    }

    private static func sampling(_ defaults: GenerationDefaults) -> [(key: String, value: GGUFValue)] {
        var entries: [(key: String, value: GGUFValue)] = []
        func number(_ key: String, _ value: Double?) {
            if let value { entries.append(("general.sampling.\(key)", .float32(Float(value)))) }
        }
        number("temp", defaults.temperature)
        number("top_p", defaults.topP)
        number("min_p", defaults.minP)
        number("penalty_repeat", defaults.repetitionPenalty)
        if let topK = defaults.topK { entries.append(("general.sampling.top_k", .int32(Int32(clamping: topK)))) }
        return entries
    }

    /// ggml's vocabulary of a `tokenizer.json`; nil where GGUF has no name for what it does.
    private static func vocabulary(_ node: JSONNode) throws -> [(key: String, value: GGUFValue)]? {
        let model = try node.child("model")
        guard try node.optional("normalizer") == nil, model.value["type"]?.stringValue == "BPE",
            let pre = BytePairPreTokenizer(json: node.value["pre_tokenizer"]),
            try model.bool("ignore_merges", default: false) == pre.ignoresMerges
        else { return nil }
        var tokens: [Int: String] = [:]
        var types: [Int: Int32] = [:]
        for (token, id) in try model.child("vocab").members() { tokens[try id.int(in: 0...Int(Int32.max))] = token }
        for added in try node.optional("added_tokens")?.elements() ?? [] {
            let id = try added.child("id").int(in: 0...Int(Int32.max))
            tokens[id] = try added.string("content")
            types[id] = try added.bool("special", default: false) ? 3 : 4
        }
        let count = (tokens.keys.max() ?? -1) + 1
        // A hole would be a token that no text has.
        guard tokens.count == count else { return nil }
        let merges = try model.child("merges").elements().map { merge in
            if let line = merge.value.stringValue { return line }
            let pair = try merge.elements()
            guard pair.count == 2 else { throw merge.error(expected: "two tokens") }
            return try pair[0].string() + " " + pair[1].string()
        }
        return [
            ("tokenizer.ggml.model", .string("gpt2")), ("tokenizer.ggml.pre", .string(pre.rawValue)),
            ("tokenizer.ggml.tokens", .array(GGUFArray((0..<count).map { tokens[$0] ?? "" }))),
            ("tokenizer.ggml.token_type", .array(GGUFArray((0..<count).map { types[$0] ?? 1 }))),
            ("tokenizer.ggml.merges", .array(GGUFArray(merges))),
            ("tokenizer.ggml.add_bos_token", .bool(try addsBOS(node))),
        ]
    }

    /// Whether the post-processor puts a token first.
    private static func addsBOS(_ node: JSONNode) throws -> Bool {
        guard let processor = try node.optional("post_processor") else { return false }
        let steps = try processor.optional("processors")?.elements() ?? [processor]
        return steps.contains { $0.value["single"]?[0]?["SpecialToken"] != nil }
    }
}
