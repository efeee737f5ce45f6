import ApusTensor

/// Sizes and policies of an ``Engine``.
public struct EngineConfiguration: Sendable {
    /// What computes the steps: the CPU backend of the model, or a GPU, which takes weights and cache in bf16, pages of 64
    /// tokens, and models that `GPUDecoder` serves.
    public var device = Device.cpu
    /// Tokens of a sequence at most, prompt and output together; nil takes the model's own limit, at most 4096.
    public var context: Int?
    /// Tokens that the key-value cache holds over all sequences; nil takes what 1 GiB holds, at least one sequence of
    /// ``context`` tokens and at most ``maxSequences`` of them, and on a GPU what fits into nine tenths of its free memory.
    /// On the CPU memory is taken as pages are touched.
    public var cacheTokens: Int?
    /// Tokens of a cache page. Attention on the CPU is fastest with multiples of 64.
    public var pageSize = 64
    /// Type of the cache: f32, bf16, f16 or q8_0; nil follows the weights.
    public var cacheType: DType?
    /// Sequences that run at once; a request counts once for each of its samples.
    public var maxSequences = 64
    /// Tokens that one step computes at most: one of each decoding sequence, the rest of prompts. Smaller steps disturb
    /// running streams less, larger ones compute prompts faster.
    public var stepTokens = 256
    /// Prompt tokens that a step computes at most while sequences decode. Few keep the time between a stream's tokens short:
    /// 48 tokens at most double a step in which 16 sequences decode. Where prompts gather that would take more than 32 such
    /// steps, a step takes a 32nd of them.
    public var promptTokensBesideDecoding = 48
    /// Requests that wait at most.
    public var maxQueuedRequests = 1024
    /// Prompt tokens of all waiting requests at most.
    public var maxQueuedTokens = 1 << 20
    /// For so long a request waits before it counts as one priority level higher, so that none waits for ever.
    public var agingInterval = Duration.seconds(60)
    /// Whether pages of finished and running sequences are found again by prompts that begin alike.
    public var usesPrefixCache = true
    /// Who drafts tokens that the model checks several at once.
    public var speculation = Speculation.none
    /// Tokens drafted at once for a sequence at most.
    public var maxDrafts = 7
    /// Whether as many tokens are drafted as pay, by the measured time of steps; otherwise always ``maxDrafts``.
    public var adaptsDrafts = true
    /// Whether a request's output is the same to the last bit alone and in any batch, however its prompt is cut and whatever is
    /// found in the prefix cache. Models of float32 and quantised weights with grouped attention are so in any case. Otherwise
    /// it costs: bf16 weights limit a step to the rows whose activations are not rounded (128), and latents (MLA, GLA) are
    /// always read absorbed.
    public var isBatchInvariant = false
    /// Runs the step's deliveries: events of all streams, in one call a step. By default the engine's own thread does; a
    /// server can hand them to its event loop, which then wakes once a step.
    public var deliver: @Sendable (_ deliveries: @escaping @Sendable () -> Void) -> Void = { $0() }

    /// The defaults.
    public init() {}

    /// Takes the sizes of steps that suit a GPU: thousands of prompt tokens, also beside sequences that decode.
    public mutating func takeGPUSteps() {
        stepTokens = 8192
        promptTokensBesideDecoding = 2048
    }
}
