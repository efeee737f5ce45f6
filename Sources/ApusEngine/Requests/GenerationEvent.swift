/// Output of one sample that became certain in one step: text to show, possibly none, and the tokens drawn.
///
/// Text is held back while it may be part of a character or of a stop string, so a piece's text need not be its tokens'. The
/// token that ends a sequence comes in a piece too, without text.
public struct GenerationPiece: Sendable, Equatable {
    /// Text to show.
    public var text: String
    /// The tokens, more than one where drafts were accepted; none where only held-back text comes.
    public var tokens: [SampledToken]

    /// A piece of output.
    public init(text: String, tokens: [SampledToken]) {
        self.text = text
        self.tokens = tokens
    }
}

/// What an ``Engine`` tells about a request, in this order: `started`, `promptLogprobs` where asked for, pieces of all samples
/// mixed with `finished` of each. The stream ends after every sample has finished, or after `failed`, which may come at any
/// time.
public enum GenerationEvent: Sendable {
    /// The request left the queue; so many tokens of its prompt were in the prefix cache.
    case started(cachedTokens: Int)
    /// One entry per token of the prompt. The first has neither log-probability nor alternatives: nothing precedes it.
    case promptLogprobs([SampledToken])
    /// Output of a sample.
    case piece(index: Int, GenerationPiece)
    /// A sample ended.
    case finished(index: Int, FinishReason, GenerationStatistics)
    /// The request ended without its result; no sample goes on.
    case failed(EngineError)
}
