import ApusEngine

/// Chunks of streamed chat completions.
struct ChatEncoder: StreamEncoder {
    private let frame: ChunkFrame
    private let logprobs: LogprobsWriter?
    /// Of each sample, whether its first chunk, which says the role, has been written.
    private var hasBegun: [Bool]

    init(frame: ChunkFrame, logprobs: LogprobsWriter?, samples: Int) {
        self.frame = frame
        self.logprobs = logprobs
        hasBegun = Array(repeating: false, count: samples)
    }

    mutating func started(_ prompt: Int, into json: inout JSONBytes) {}

    mutating func prompt(_ prompt: Int, logprobs: [SampledToken], into json: inout JSONBytes) {}

    mutating func piece(_ prompt: Int, _ sample: Int, _ piece: GenerationPiece, into json: inout JSONBytes) {
        guard !piece.text.isEmpty || logprobs != nil else { return }
        begin(sample, into: &json)
        frame.begin(choice: sample, into: &json)
        json.raw(",\"delta\":{\"content\":")
        json.string(piece.text)
        json.raw("},\"logprobs\":")
        if let logprobs { logprobs.chat(piece.tokens, into: &json) } else { json.raw("null") }
        json.raw(",\"finish_reason\":null")
        frame.end(into: &json)
    }

    mutating func finished(_ prompt: Int, _ sample: Int, _ reason: FinishReason, into json: inout JSONBytes) {
        begin(sample, into: &json)
        frame.begin(choice: sample, into: &json)
        json.raw(",\"delta\":{},\"logprobs\":null,\"finish_reason\":")
        json.raw(reason.wireName)
        frame.end(into: &json)
    }

    private mutating func begin(_ sample: Int, into json: inout JSONBytes) {
        guard !hasBegun[sample] else { return }
        hasBegun[sample] = true
        frame.begin(choice: sample, into: &json)
        json.raw(",\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null")
        frame.end(into: &json)
    }

    func usage(_ usage: Usage, into json: inout JSONBytes) { frame.usage(usage, into: &json) }
}
