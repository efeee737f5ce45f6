/// How outputs are drawn from a policy.
public struct SamplingPlan: Sendable, Equatable {
    /// Outputs of each prompt.
    public var outputs = 10
    /// Divides the logits; reward variance is defined at 1.
    public var temperature = 1.0
    /// The share of the most likely tokens that is kept.
    public var topP = 1.0
    /// Tokens of an output at most.
    public var maxTokens = 128
    /// Of the draws.
    public var seed: UInt64 = 0

    /// Ten outputs of at most 128 tokens at temperature 1.
    public init() {}

    /// The seed of a prompt's first output; the others take those that follow it.
    func seed(ofPrompt prompt: Int) -> UInt64 { seed &+ UInt64(prompt) &* 1_000_003 }
}

/// What a policy answered to some prompts.
public struct PolicyOutputs: Sendable, Equatable {
    /// One answer.
    public struct Output: Sendable, Equatable {
        /// The text.
        public var text: String
        /// Tokens drawn.
        public var tokens: Int
        /// Whether the policy ended it, rather than the limit.
        public var isComplete: Bool
    }

    /// By prompt, by output.
    public var outputs: [[Output]]
    /// Seconds that drawing took, those of earlier runs not counted.
    public var seconds = 0.0
    /// Tokens drawn in that time.
    public var drawnTokens = 0

    /// The texts of one prompt's outputs.
    public func texts(_ prompt: Int) -> [String] { outputs[prompt].map(\.text) }
}
