import ApusEngine

/// Chunks of streamed completions.
struct CompletionEncoder: StreamEncoder {
    private let frame: ChunkFrame
    private let logprobs: LogprobsWriter?
    private let samples: Int
    /// What is echoed before each prompt's output; nil where nothing is.
    private let echoed: [String]?
    /// Characters of output so far, of each choice.
    private var offsets: [Int]

    init(frame: ChunkFrame, logprobs: LogprobsWriter?, prompts: Int, samples: Int, echoed: [String]?) {
        self.frame = frame
        self.logprobs = logprobs
        self.samples = samples
        self.echoed = echoed
        offsets = Array(repeating: 0, count: prompts * samples)
    }

    mutating func started(_ prompt: Int, into json: inout JSONBytes) {
        // With log-probabilities the echo waits for those of the prompt.
        guard let echoed, logprobs == nil else { return }
        for sample in 0..<samples {
            chunk(prompt, sample, GenerationPiece(text: echoed[prompt], tokens: []), into: &json)
        }
    }

    mutating func prompt(_ prompt: Int, logprobs tokens: [SampledToken], into json: inout JSONBytes) {
        guard let echoed else { return }
        for sample in 0..<samples {
            chunk(prompt, sample, GenerationPiece(text: echoed[prompt], tokens: tokens), into: &json)
        }
    }

    mutating func piece(_ prompt: Int, _ sample: Int, _ piece: GenerationPiece, into json: inout JSONBytes) {
        guard !piece.text.isEmpty || logprobs != nil else { return }
        chunk(prompt, sample, piece, into: &json)
    }

    private mutating func chunk(
        _ prompt: Int, _ sample: Int, _ piece: GenerationPiece, into json: inout JSONBytes
    ) {
        let choice = prompt * samples + sample
        frame.begin(choice: choice, into: &json)
        json.raw(",\"text\":")
        json.string(piece.text)
        json.raw(",\"logprobs\":")
        if let logprobs {
            logprobs.completion(piece.tokens, offset: &offsets[choice], into: &json)
        } else {
            json.raw("null")
        }
        json.raw(",\"finish_reason\":null")
        frame.end(into: &json)
    }

    mutating func finished(_ prompt: Int, _ sample: Int, _ reason: FinishReason, into json: inout JSONBytes) {
        frame.begin(choice: prompt * samples + sample, into: &json)
        json.raw(",\"text\":\"\",\"logprobs\":null,\"finish_reason\":")
        json.raw(reason.wireName)
        frame.end(into: &json)
    }

    func usage(_ usage: Usage, into json: inout JSONBytes) { frame.usage(usage, into: &json) }
}
