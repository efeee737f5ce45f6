import ApusEngine

/// The engine's work for one HTTP request: a stream for each of its prompts.
struct RunningGeneration: Sendable {
    let streams: [GenerationStream]
    /// Samples of each prompt.
    let samples: Int
    /// Whether the response names tokens, for their log-probabilities.
    let keepsTokens: Bool
    /// Tokens that end an output and are not part of it; none where generation goes on over them.
    let isEnd: @Sendable (Int32) -> Bool

    /// Ends all of it at the next step.
    func cancel() { for stream in streams { stream.cancel() } }

    /// The tokens of a piece that belong to the output.
    func visibleTokens(_ piece: GenerationPiece) -> [SampledToken] {
        keepsTokens ? piece.tokens.filter { !isEnd($0.token) } : []
    }

    /// Calls `body` with each prompt's events as they come: all of one prompt and step at once.
    func forEachStep(_ body: (_ prompt: Int, _ events: [GenerationEvent]) async throws -> Void) async throws {
        if let only = streams.first, streams.count == 1 {
            var iterator = only.makeAsyncIterator()
            while let events = await iterator.nextEvents() { try await body(0, events) }
            return
        }
        let (merged, sink) = AsyncStream.makeStream(of: (prompt: Int, events: [GenerationEvent]?).self)
        try await withThrowingTaskGroup(of: Void.self) { group in
            for (prompt, stream) in streams.enumerated() {
                group.addTask {
                    var iterator = stream.makeAsyncIterator()
                    while let events = await iterator.nextEvents() { sink.yield((prompt, events)) }
                    sink.yield((prompt, nil))
                }
            }
            var open = streams.count
            for await (prompt, events) in merged {
                if let events {
                    try await body(prompt, events)
                } else {
                    open -= 1
                    if open == 0 { sink.finish() }
                }
            }
        }
    }
}

/// One continuation of a prompt, whole.
struct CollectedSample: Sendable {
    var text = ""
    /// The tokens, where log-probabilities are asked for.
    var tokens: [SampledToken] = []
    var reason = FinishReason.stop
}

/// What all continuations of all prompts gave.
struct CollectedGeneration: Sendable {
    /// By prompt, then by sample.
    var samples: [[CollectedSample]]
    /// By prompt, where asked for.
    var promptLogprobs: [[SampledToken]]
    var usage = Usage()
}

extension RunningGeneration {
    /// Waits for all of it.
    /// - Throws: ``APIError`` for the first prompt that fails; the others end.
    func collect(usage: Usage) async throws -> CollectedGeneration {
        var result = CollectedGeneration(
            samples: Array(repeating: Array(repeating: CollectedSample(), count: samples), count: streams.count),
            promptLogprobs: Array(repeating: [], count: streams.count), usage: usage)
        try await forEachStep { prompt, events in
            for event in events {
                switch event {
                case .started(let cached): result.usage.cachedTokens += cached
                case .promptLogprobs(let tokens): result.promptLogprobs[prompt] = tokens
                case .piece(let index, let piece):
                    result.samples[prompt][index].text += piece.text
                    if keepsTokens { result.samples[prompt][index].tokens += visibleTokens(piece) }
                case .finished(let index, let reason, let statistics):
                    if reason == .cancelled { throw APIError.clientLeft }
                    result.samples[prompt][index].reason = reason
                    result.usage.completionTokens += statistics.generatedTokens
                case .failed(let error): throw APIError(error)
                }
            }
        }
        return result
    }
}
