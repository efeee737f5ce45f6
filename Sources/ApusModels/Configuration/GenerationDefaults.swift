import ApusText

/// How a model's makers recommend to sample from it; nil where they say nothing.
public struct GenerationDefaults: Sendable, Equatable {
    /// Tokens that end an answer; empty where the model's configuration alone says.
    public var eosTokens: [Int] = []
    /// Whether to sample rather than take the most likely token.
    public var samples: Bool?
    /// Temperature.
    public var temperature: Double?
    /// Keep the most likely tokens up to this probability.
    public var topP: Double?
    /// Keep this many of the most likely tokens.
    public var topK: Int?
    /// Keep tokens at least this likely relative to the most likely.
    public var minP: Double?
    /// Divides the logits of tokens already seen.
    public var repetitionPenalty: Double?
    /// Most tokens of an answer.
    public var maxNewTokens: Int?

    /// Nothing recommended.
    public init() {}

    /// The recommendations in GGUF metadata (`general.sampling.*`).
    public init(gguf metadata: GGUFMetadata) throws {
        temperature = try metadata.number("general.sampling.temp")
        topP = try metadata.number("general.sampling.top_p")
        topK = try metadata.integer("general.sampling.top_k")
        minP = try metadata.number("general.sampling.min_p")
        repetitionPenalty = try metadata.number("general.sampling.penalty_repeat")
        try validate(file: metadata.fileName)
    }

    /// The recommendations in a Hugging Face `generation_config.json`.
    public init(json node: JSONNode, file: String) throws {
        eosTokens = try node.tokens("eos_token_id")
        samples = try node.optional("do_sample")?.bool()
        temperature = try node.optional("temperature")?.double()
        topP = try node.optional("top_p")?.double()
        topK = try node.optional("top_k")?.int()
        minP = try node.optional("min_p")?.double()
        repetitionPenalty = try node.optional("repetition_penalty")?.double()
        maxNewTokens = try node.optional("max_new_tokens")?.int()
        try validate(file: file)
    }

    private func validate(file: String) throws {
        func check<T: Comparable>(_ name: String, _ value: T?, _ range: ClosedRange<T>) throws {
            guard let value, !range.contains(value) else { return }
            throw ModelFileError.malformed(
                file: file, place: name, expected: "\(range.lowerBound) to \(range.upperBound)", found: "\(value)")
        }
        try check("temperature", temperature, 0...1000)
        try check("top_p", topP, 0...1)
        try check("top_k", topK, -1...Int(Int32.max))
        try check("min_p", minP, 0...1)
        try check("repetition_penalty", repetitionPenalty, 0.001...1000)
        try check("max_new_tokens", maxNewTokens, 0...Int(Int32.max))
    }
}

extension JSONNode {
    /// Token ids under `key`: one, a list, or none.
    func tokens(_ key: String) throws -> [Int] {
        guard let node = try optional(key) else { return [] }
        if node.value.arrayValue != nil { return try node.elements().map { try $0.int() } }
        return [try node.int()]
    }
}
