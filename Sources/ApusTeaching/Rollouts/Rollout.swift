/// One output as the policy drew it.
public struct Rollout: Sendable, Equatable {
    /// The tokens drawn, the one that ended it included.
    public var tokens: [Int32]
    /// The log-probability of each under the policy that drew it, natural logarithm.
    public var logProbabilities: [Float]
    /// Their text, special tokens left out.
    public var text: String
    /// Whether the policy ended it, rather than the limit.
    public var isComplete: Bool

    /// An output.
    public init(tokens: [Int32], logProbabilities: [Float], text: String, isComplete: Bool) {
        self.tokens = tokens
        self.logProbabilities = logProbabilities
        self.text = text
        self.isComplete = isComplete
    }
}

/// Outputs wanted of one prompt.
public struct RolloutRequest: Sendable, Equatable {
    /// The prompt's place in its file, for messages.
    public var prompt: Int
    /// The prompt's tokens.
    public var tokens: [Int32]
    /// Outputs, which share the prompt's pages.
    public var samples: Int
    /// Output i is drawn with the seed `seed + i`: it depends on nothing else but the weights.
    public var seed: UInt64

    /// A request.
    public init(prompt: Int, tokens: [Int32], samples: Int, seed: UInt64) {
        self.prompt = prompt
        self.tokens = tokens
        self.samples = samples
        self.seed = seed
    }
}
