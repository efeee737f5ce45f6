import ApusEngine
import ApusText

/// What completions and chat completions are told in the same words.
struct GenerationFields: Sendable {
    var model: String?
    var sampling: SamplingParameters
    var samples = 1
    var stream = false
    var includeUsage = false
    var priority = 0
    var skipSpecialTokens = true
    /// The field that sets the number of tokens; nil where none does.
    var maxTokens: Int?

    /// Most samples of one prompt.
    static let samplesLimit = 128
    /// Most stop strings.
    static let stopLimit = 16
    /// Most alternatives of a token.
    static let alternativesLimit = 20

    /// Reads the fields.
    /// - Parameter defaults: the model's own sampling defaults.
    init(_ fields: RequestFields, defaults: SamplingParameters) throws(APIError) {
        sampling = defaults
        // OpenAI's default, where the model's files recommend nothing.
        if defaults.temperature == 0 { sampling.temperature = 1 }
        model = try fields.string("model")
        try readSampling(fields)
        samples = try fields.int("n", 1...Self.samplesLimit) ?? 1
        try fields.refuse("best_of", neutral: .integer(Int64(samples)))
        try fields.refuse("logit_bias")
        priority = try fields.int("priority", -1_000_000...1_000_000) ?? 0
        skipSpecialTokens = try fields.bool("skip_special_tokens") ?? true
        stream = try fields.bool("stream") ?? false
        if let options = try fields.optional("stream_options") {
            guard stream else {
                throw .invalid("stream_options: only where stream is true", parameter: "stream_options")
            }
            includeUsage = try RequestFields(options).bool("include_usage") ?? false
        }
    }

    private mutating func readSampling(_ fields: RequestFields) throws(APIError) {
        if let value = try fields.double("temperature", 0...2) { sampling.temperature = value }
        if let value = try fields.double("top_p", 0...1) {
            guard value > 0 else { throw .invalid("top_p: expected a number above 0, found 0", parameter: "top_p") }
            sampling.topP = value
        }
        // -1 turns the filter off in vLLM, 0 here and in Hugging Face.
        if let value = try fields.int("top_k", -1...Int(Int32.max)) { sampling.topK = max(value, 0) }
        if let value = try fields.double("min_p", 0...1) { sampling.minP = value }
        if let value = try fields.double("presence_penalty", -2...2) { sampling.presencePenalty = value }
        if let value = try fields.double("frequency_penalty", -2...2) { sampling.frequencyPenalty = value }
        // Smaller ones divide logits beyond what a float holds.
        if let value = try fields.double("repetition_penalty", 0.01...10) { sampling.repetitionPenalty = value }
        sampling.seed =
            try fields.int("seed", Int.min...Int.max).map { UInt64(bitPattern: Int64($0)) }
            ?? .random(in: 0...UInt64.max)
        sampling.ignoreEndOfSequence = try fields.bool("ignore_eos") ?? false
        sampling.stop = try fields.strings("stop", limit: Self.stopLimit)
        guard sampling.stop.allSatisfy({ !$0.isEmpty }) else {
            throw .invalid("stop: expected non-empty strings, found an empty one", parameter: "stop")
        }
        sampling.logprobs = nil
    }
}
