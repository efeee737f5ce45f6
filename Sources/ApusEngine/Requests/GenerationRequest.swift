/// What is asked of an ``Engine``: tokens to go on from, and how.
public struct GenerationRequest: Sendable {
    /// Name for logs and errors; the engine gives it no meaning.
    public var id: String
    /// The prompt's tokens, at least one.
    public var prompt: [Int32]
    /// How tokens are drawn and when generation ends.
    ///
    /// Sample i draws with the seed `sampling.seed + i`. A request without a seed of its own should be given a random one.
    public var sampling: SamplingParameters
    /// Independent continuations of the prompt, which share its pages.
    public var samples: Int
    /// Requests with lower values run first, as in vLLM; among equals the earlier one. Waiting counts too: see
    /// ``EngineConfiguration/agingInterval``.
    public var priority: Int
    /// Report the log-probability of each prompt token, and this many of the most likely tokens at its place; nil reports
    /// none. The whole prompt is computed then: nothing is read from the prefix cache.
    public var promptLogprobs: Int?
    /// What the output must match; nil leaves it free.
    public var constraint: (any TokenConstraint)?
    /// Whether special tokens leave no text.
    public var skipSpecialTokens: Bool
    /// The request fails with ``EngineError/deadlineExceeded`` when it has not finished by then.
    public var deadline: ContinuousClock.Instant?

    /// A request for one continuation of `prompt`.
    public init(
        id: String = "", prompt: [Int32], sampling: SamplingParameters = SamplingParameters(), samples: Int = 1,
        priority: Int = 0, promptLogprobs: Int? = nil, constraint: (any TokenConstraint)? = nil,
        skipSpecialTokens: Bool = true, deadline: ContinuousClock.Instant? = nil
    ) {
        self.id = id
        self.prompt = prompt
        self.sampling = sampling
        self.samples = samples
        self.priority = priority
        self.promptLogprobs = promptLogprobs
        self.constraint = constraint
        self.skipSpecialTokens = skipSpecialTokens
        self.deadline = deadline
    }
}
