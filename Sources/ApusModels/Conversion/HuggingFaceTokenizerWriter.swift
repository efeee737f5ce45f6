import ApusText

/// A model's tokenizer, chat template and generation defaults as the files that transformers reads.
enum HuggingFaceTokenizerWriter {
    /// What a folder of the same kind is copied from.
    private static let copied = [
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
        "chat_template.jinja",
        "generation_config.json",
    ]

    /// Writes the files; what cannot be carried over is noted.
    static func write(_ checkpoint: any Checkpoint, to folder: AtomicFolder, _ notes: inout [String]) throws {
        switch checkpoint.tokenizer {
        case .file(let path):
            let source = FilePath.folder(of: path)
            for name in copied where FilePath.isFile(FilePath.join(source, name)) {
                let file = try MappedFile(path: FilePath.join(source, name))
                try folder.write(name, file.bytes(0..<file.byteCount))
            }
            return
        case .text(let text, let metadata):
            try folder.write("tokenizer.json", text)
            try writeConfiguration(checkpoint, metadata, to: folder)
        case .gguf(let metadata):
            if let text = try tokenizerJSON(metadata) {
                try folder.write("tokenizer.json", text)
                try writeConfiguration(checkpoint, metadata, to: folder)
            } else {
                let model = try metadata.string("tokenizer.ggml.model") ?? "none"
                let pre = try metadata.string("tokenizer.ggml.pre") ?? "none"
                notes.append(
                    "the tokenizer (\(model), pre-tokenizer \(pre)) is left out: no tokenizer.json is known for it")
            }
        case .none: notes.append("the model has no tokenizer")
        }
        try writeGeneration(checkpoint, to: folder)
    }

    private static func writeConfiguration(
        _ checkpoint: any Checkpoint, _ metadata: GGUFMetadata, to folder: AtomicFolder
    ) throws {
        let tokenizer = try checkpoint.loadTokenizer()
        var object = JSONObject([("tokenizer_class", .string("PreTrainedTokenizerFast"))])
        let named = tokenizer.namedTokens
        for (key, id) in [
            ("bos_token", named.bos), ("eos_token", named.eos), ("unk_token", named.unknown),
            ("pad_token", named.padding),
        ] {
            if let id { object[key] = .string(tokenizer.decode([id], skipSpecialTokens: false)) }
        }
        object["model_max_length"] = .integer(Int64(checkpoint.configuration.maxPositions))
        object["clean_up_tokenization_spaces"] = .bool(false)
        if let template = try checkpoint.chatTemplate() {
            object["chat_template"] = .string(template)
            try folder.write("chat_template.jinja", template)
        }
        try folder.write("tokenizer_config.json", JSONValue.object(object).serialized(.pretty) + "\n")
    }

    private static func writeGeneration(_ checkpoint: any Checkpoint, to folder: AtomicFolder) throws {
        let defaults = checkpoint.generationDefaults
        let configuration = checkpoint.configuration
        var object = JSONObject()
        func ids(_ key: String, _ values: [Int]) {
            if values.count == 1 { object[key] = .integer(Int64(values[0])) }
            if values.count > 1 { object[key] = .array(values.map { .integer(Int64($0)) }) }
        }
        ids("bos_token_id", configuration.bosToken.map { [$0] } ?? [])
        ids("eos_token_id", configuration.eosTokens)
        ids("pad_token_id", configuration.padToken.map { [$0] } ?? [])
        for (key, value) in [
            ("temperature", defaults.temperature), ("top_p", defaults.topP), ("min_p", defaults.minP),
            ("repetition_penalty", defaults.repetitionPenalty),
        ] {
            if let value { object[key] = .double(value) }
        }
        if let topK = defaults.topK { object["top_k"] = .integer(Int64(topK)) }
        if let samples = defaults.samples ?? (defaults.temperature.map { $0 > 0 }) {
            object["do_sample"] = .bool(samples)
        }
        guard !object.isEmpty else { return }
        try folder.write("generation_config.json", JSONValue.object(object).serialized(.pretty) + "\n")
    }

    /// The `tokenizer.json` of ggml's byte-level BPE; nil for other models and pre-tokenizers.
    private static func tokenizerJSON(_ metadata: GGUFMetadata) throws -> String? {
        guard try metadata.string("tokenizer.ggml.model") == "gpt2",
            let pre = BytePairPreTokenizer(ggufName: try metadata.string("tokenizer.ggml.pre")),
            let tokens = try metadata.array("tokenizer.ggml.tokens", of: .string)?.strings,
            let merges = try metadata.array("tokenizer.ggml.merges", of: .string)?.strings,
            try metadata.bool("tokenizer.ggml.add_space_prefix") != true
        else { return nil }
        let types = try metadata.array("tokenizer.ggml.token_type", of: .int32, .uint32)?.integers ?? []
        var vocabulary = JSONObject()
        var added: [JSONValue] = []
        for (id, token) in tokens.enumerated() {
            vocabulary[token] = .integer(Int64(id))
            let type = id < types.count ? types[id] : 1
            guard type == 2 || type == 3 || type == 4 else { continue }
            added.append([
                "id": .integer(Int64(id)), "content": .string(token), "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": .bool(type != 4),
            ])
        }
        var processor = JSONValue.null
        let addsBOS = try metadata.bool("tokenizer.ggml.add_bos_token") ?? (pre == .llama3)
        if addsBOS, let bos = try metadata.integer("tokenizer.ggml.bos_token_id"), tokens.indices.contains(bos) {
            processor = template(tokens[bos], id: bos)
        }
        let model: JSONValue = [
            "type": "BPE", "dropout": nil, "unk_token": nil, "continuing_subword_prefix": nil,
            "end_of_word_suffix": nil,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": .bool(pre.ignoresMerges),
            "vocab": .object(vocabulary), "merges": .array(merges.map { .string($0) }),
        ]
        let decoder: JSONValue = [
            "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true,
        ]
        let whole: JSONValue = [
            "version": "1.0", "truncation": nil, "padding": nil, "added_tokens": .array(added), "normalizer": nil,
            "pre_tokenizer": pre.json, "post_processor": processor, "decoder": decoder, "model": model,
        ]
        return whole.serialized()
    }

    /// A post-processor that begins every text with a token.
    private static func template(_ token: String, id: Int) -> JSONValue {
        let special: JSONValue = ["SpecialToken": ["id": .string(token), "type_id": 0]]
        func sequence(_ name: String, _ type: Int64) -> JSONValue {
            ["Sequence": ["id": .string(name), "type_id": .integer(type)]]
        }
        let entry: JSONValue = ["id": .string(token), "ids": [.integer(Int64(id))], "tokens": [.string(token)]]
        return [
            "type": "TemplateProcessing", "single": [special, sequence("A", 0)],
            "pair": [special, sequence("A", 0), special, sequence("B", 1)],
            "special_tokens": .object(JSONObject([(token, entry)])),
        ]
    }
}
