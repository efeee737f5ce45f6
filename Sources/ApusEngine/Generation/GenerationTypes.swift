/// Why a generation ended.
public enum FinishReason: String, Sendable, Codable {
    /// The model ended it, or a stop string came.
    case stop
    /// `maxTokens`, or the context, is full.
    case length
    /// The caller ended it.
    case cancelled
}

/// What one generation cost.
public struct GenerationStatistics: Sendable {
    /// Tokens of the prompt.
    public var promptTokens = 0
    /// Tokens of the prompt that were in the cache already.
    public var cachedTokens = 0
    /// Tokens generated.
    public var generatedTokens = 0
    /// Seconds from the call to the first token.
    public var secondsToFirstToken = 0.0
    /// Seconds from the first token to the last.
    public var generationSeconds = 0.0
    /// Seconds in the queue; part of ``secondsToFirstToken``.
    public var queueSeconds = 0.0
    /// Tokens drafted by speculative decoding.
    public var draftedTokens = 0
    /// Drafted tokens that were accepted.
    public var acceptedTokens = 0

    /// Nothing yet.
    public init() {}

    /// Prompt tokens computed per second.
    public var promptTokensPerSecond: Double {
        secondsToFirstToken > 0 ? Double(promptTokens - cachedTokens) / secondsToFirstToken : 0
    }

    /// Tokens generated per second, the first one (which belongs to the prompt) not counted.
    public var generatedTokensPerSecond: Double {
        generationSeconds > 0 ? Double(max(generatedTokens - 1, 0)) / generationSeconds : 0
    }
}

/// What a generation gave.
public struct GenerationResult: Sendable {
    /// The text, without what a stop string cut off.
    public let text: String
    /// The tokens, the end-of-sequence token included when it came.
    public let tokens: [SampledToken]
    /// Why it ended.
    public let finishReason: FinishReason
    /// What it cost.
    public let statistics: GenerationStatistics
}

/// What can be wrong with a request for text.
public enum GenerationError: Error, Equatable, CustomStringConvertible {
    /// The prompt has no tokens.
    case emptyPrompt
    /// The prompt leaves no room for an answer.
    case promptTooLong(tokens: Int, context: Int)
    /// A token id is outside the model's vocabulary.
    case unknownToken(Int, vocabulary: Int)
    /// The model has no head that gives logits over a vocabulary.
    case noLanguageModelHead(String)

    /// One sentence for people.
    public var description: String {
        switch self {
        case .emptyPrompt: "the prompt has no tokens; at least one is expected"
        case .promptTooLong(let tokens, let context):
            "the prompt has \(tokens) tokens, and the context holds \(context) with at least one for the answer; "
                + "shorten the prompt or raise --context"
        case .unknownToken(let token, let vocabulary):
            "token id \(token) is outside the vocabulary of \(vocabulary) tokens"
        case .noLanguageModelHead(let found): "expected a language-model head, found \(found)"
        }
    }
}
