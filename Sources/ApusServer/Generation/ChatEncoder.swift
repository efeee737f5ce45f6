import ApusEngine

/// Chunks of streamed chat completions.
struct ChatEncoder: StreamEncoder {
    private let frame: ChunkFrame
    private let logprobs: LogprobsWriter?
    private let tools: ToolUse?
    /// Of each sample, whether its first chunk, which says the role, has been written.
    private var hasBegun: [Bool]
    /// Of each sample, where tools may be called.
    private var parsers: [ToolCallParser]

    init(frame: ChunkFrame, logprobs: LogprobsWriter?, tools: ToolUse?, samples: Int) {
        self.frame = frame
        self.logprobs = logprobs
        self.tools = tools
        hasBegun = Array(repeating: false, count: samples)
        parsers = tools.map { Array(repeating: $0.parser(isIncremental: true), count: samples) } ?? []
    }

    mutating func started(_ prompt: Int, into json: inout JSONBytes) {}

    mutating func prompt(_ prompt: Int, logprobs: [SampledToken], into json: inout JSONBytes) {}

    mutating func piece(_ prompt: Int, _ sample: Int, _ piece: GenerationPiece, into json: inout JSONBytes) {
        guard let tools else {
            guard !piece.text.isEmpty || logprobs != nil else { return }
            return content(sample, piece.text, piece.tokens, into: &json)
        }
        let events = tools.wanted(parsers[sample].push(piece.text))
        // Log-probabilities of what is held back or is a call come with a chunk without text.
        if logprobs != nil && !piece.tokens.isEmpty { content(sample, "", piece.tokens, into: &json) }
        for event in events { write(event, sample, into: &json) }
    }

    mutating func finished(_ prompt: Int, _ sample: Int, _ reason: FinishReason, into json: inout JSONBytes) {
        begin(sample, into: &json)
        var hasCalls = false
        if let tools {
            for event in tools.wanted(parsers[sample].finish()) { write(event, sample, into: &json) }
            hasCalls = parsers[sample].callCount > 0
        }
        frame.begin(choice: sample, into: &json)
        json.raw(",\"delta\":{},\"logprobs\":null,\"finish_reason\":")
        json.raw(hasCalls && reason == .stop ? "\"tool_calls\"" : reason.wireName)
        frame.end(into: &json)
    }

    private mutating func begin(_ sample: Int, into json: inout JSONBytes) {
        guard !hasBegun[sample] else { return }
        hasBegun[sample] = true
        frame.begin(choice: sample, into: &json)
        json.raw(",\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null")
        frame.end(into: &json)
    }

    private mutating func content(
        _ sample: Int, _ text: String, _ tokens: [SampledToken], into json: inout JSONBytes
    ) {
        begin(sample, into: &json)
        frame.begin(choice: sample, into: &json)
        json.raw(",\"delta\":{\"content\":")
        json.string(text)
        json.raw("},\"logprobs\":")
        if let logprobs { logprobs.chat(tokens, into: &json) } else { json.raw("null") }
        json.raw(",\"finish_reason\":null")
        frame.end(into: &json)
    }

    private mutating func write(_ event: ToolCallParser.Event, _ sample: Int, into json: inout JSONBytes) {
        switch event {
        case .content(let text): content(sample, text, [], into: &json)
        case .call(let index, let id, let name):
            beginCall(sample, index, into: &json)
            json.raw(",\"id\":")
            json.string(id)
            json.raw(",\"type\":\"function\",\"function\":{\"name\":")
            json.string(name)
            json.raw(",\"arguments\":\"\"}")
            endCall(into: &json)
        case .arguments(let index, let text):
            beginCall(sample, index, into: &json)
            json.raw(",\"function\":{\"arguments\":")
            json.string(text)
            json.raw("}")
            endCall(into: &json)
        }
    }

    private mutating func beginCall(_ sample: Int, _ index: Int, into json: inout JSONBytes) {
        begin(sample, into: &json)
        frame.begin(choice: sample, into: &json)
        json.raw(",\"delta\":{\"tool_calls\":[{\"index\":")
        json.integer(index)
    }

    private func endCall(into json: inout JSONBytes) {
        json.raw("}]},\"logprobs\":null,\"finish_reason\":null")
        frame.end(into: &json)
    }

    func usage(_ usage: Usage, into json: inout JSONBytes) { frame.usage(usage, into: &json) }
}
