/// How the next token is drawn from the logits, and when generation ends.
///
/// The order follows vLLM and Hugging Face: penalties on the logits, temperature, then top-k, top-p and min-p as filters on
/// the tempered distribution.
public struct SamplingParameters: Sendable, Equatable {
    /// Divides the logits; 0 takes the largest logit (greedy).
    public var temperature: Double = 0
    /// Only the `topK` most likely tokens are kept; 0 keeps all.
    public var topK: Int = 0
    /// The smallest set of most likely tokens whose probability reaches `topP` is kept; 1 keeps all.
    public var topP: Double = 1
    /// Tokens less likely than `minP` times the most likely one are dropped; 0 keeps all.
    public var minP: Double = 0
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output (Keskar et al. 2019); 1 is off.
    public var repetitionPenalty: Double = 1
    /// Subtracted from the logit of every token already generated.
    public var presencePenalty: Double = 0
    /// Subtracted from the logit of a token once for each time it was generated.
    public var frequencyPenalty: Double = 0
    /// Seed of the draw; the n-th token of a request depends only on the seed, n, and the logits.
    public var seed: UInt64 = 0
    /// Generation ends after this many tokens.
    public var maxTokens: Int = 256
    /// Generation ends when the text contains one of these; the match is not part of the output.
    public var stop: [String] = []
    /// Whether the end-of-sequence token is generated over instead of ending the output.
    public var ignoreEndOfSequence: Bool = false
    /// Report the log-probability of each token, and of this many most likely alternatives; nil reports none.
    public var logprobs: Int? = nil

    /// Greedy, 256 tokens.
    public init() {}

    /// Whether every value is in its range.
    /// - Throws: ``SamplingError/parameter(name:expected:found:)`` for the first that is not.
    public func validate() throws(SamplingError) {
        func check(_ holds: Bool, _ name: String, _ expected: String, _ found: Any) throws(SamplingError) {
            if !holds { throw SamplingError.parameter(name: name, expected: expected, found: "\(found)") }
        }
        try check(temperature.isFinite && temperature >= 0, "temperature", "a number >= 0", temperature)
        try check(topK >= 0, "top-k", "an integer >= 0 (0 keeps all)", topK)
        try check(topP > 0 && topP <= 1, "top-p", "a number in (0, 1]", topP)
        try check(minP >= 0 && minP <= 1, "min-p", "a number in [0, 1]", minP)
        try check(
            repetitionPenalty.isFinite && repetitionPenalty > 0, "repetition penalty", "a number > 0", repetitionPenalty
        )
        try check(
            presencePenalty.isFinite && abs(presencePenalty) <= 100, "presence penalty", "a number in [-100, 100]",
            presencePenalty)
        try check(
            frequencyPenalty.isFinite && abs(frequencyPenalty) <= 100, "frequency penalty", "a number in [-100, 100]",
            frequencyPenalty)
        try check(maxTokens >= 0, "max tokens", "an integer >= 0", maxTokens)
        try check(stop.allSatisfy { !$0.isEmpty }, "stop", "non-empty strings", stop)
        try check((logprobs ?? 0) >= 0, "logprobs", "an integer >= 0", logprobs ?? 0)
    }
}

/// What can be wrong with sampling.
public enum SamplingError: Error, Equatable, CustomStringConvertible {
    /// A parameter is out of range.
    case parameter(name: String, expected: String, found: String)
    /// The model gave a NaN, or no finite logit at all.
    case notFinite(position: Int)

    /// One sentence for people.
    public var description: String {
        switch self {
        case .parameter(let name, let expected, let found): "\(name): expected \(expected), found \(found)"
        case .notFinite(let position): "the model's logits are not finite at generated token \(position)"
        }
    }
}
