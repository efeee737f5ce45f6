import ApusModels
import ApusTensor

/// One growing sequence of tokens of a decoder, and what of it is in the cache. Needs no tokenizer.
///
/// Not for use from several threads at once.
public final class DecodeSession {
    /// What the network is.
    public var configuration: DecoderConfiguration { sequence.configuration }
    /// Tokens the session holds at most.
    public let context: Int
    /// The tokens in the cache.
    public private(set) var tokens: [Int32] = []
    private let sequence: any SessionSequence

    /// An empty session.
    /// - Parameters:
    ///   - context: tokens it can hold; by default the model's own limit, at most 4096.
    ///   - cacheType: f32, bf16, f16 or q8_0; nil takes the model's default.
    public init(_ decoder: Decoder, context: Int? = nil, cacheType: DType? = nil) throws {
        self.context = context ?? Self.defaultContext(decoder.configuration)
        sequence = try DecoderSequence(decoder, context: self.context, cacheType: cacheType)
    }

    /// An empty session on a GPU, which takes weights and cache in bf16.
    /// - Parameters:
    ///   - path: a model that `GPUDecoder` serves: a GGUF file, a safetensors file or a Hugging Face directory.
    ///   - device: the GPU's number.
    ///   - context: tokens it can hold; by default the model's own limit, at most 4096.
    ///   - ranks: those that the model is cut over; nil for all of it on one GPU.
    ///   - progress: called with the share of the weights that are there.
    /// - Throws: ``ModelFileError``, `GPUDecoderError`, `CUDAError`.
    public init(
        path: String, device: Int, context: Int? = nil, cacheType: DType? = nil, ranks: TensorParallel? = nil,
        progress: (Double) -> Void = { _ in }
    ) throws {
        if let cacheType, cacheType != .bf16 {
            throw EngineError.unsupported("a cache in \(cacheType) instead of bf16: not on \(Device.cuda(device))")
        }
        sequence = try GPUSequence(
            path: path, device: device, context: context, ranks: ranks, progress: progress)
        self.context = context ?? Self.defaultContext(sequence.configuration)
    }

    static func defaultContext(_ configuration: DecoderConfiguration) -> Int { min(configuration.maxPositions, 4096) }

    /// Makes the session's tokens `prompt`, computing what is not in the cache yet; the last token is always computed.
    /// - Returns: the logits after the prompt, [1, vocabulary], and how many of its tokens were in the cache.
    /// - Throws: ``GenerationError`` when the prompt is empty, too long, or holds unknown tokens.
    public func start(_ prompt: [Int32]) throws -> (logits: Tensor, cached: Int) {
        try check(prompt)
        var common = 0
        while common < min(tokens.count, prompt.count - 1), tokens[common] == prompt[common] { common += 1 }
        try sequence.truncate(to: common)
        tokens.removeLast(tokens.count - common)
        var rest = prompt[common...]
        for step in sequence.steps(rest.count).dropLast() {
            _ = try run(Array(rest.prefix(step)), givesLogits: false)
            rest = rest.dropFirst(step)
        }
        return (try run(Array(rest), givesLogits: true)!, common)
    }

    /// Whether another token fits.
    public var hasRoom: Bool { tokens.count < context }

    /// Appends one token.
    /// - Returns: the logits after it, [1, vocabulary].
    public func append(_ token: Int32) throws -> Tensor { try run([token], givesLogits: true)! }

    private func run(_ new: [Int32], givesLogits: Bool) throws -> Tensor? {
        let logits = try sequence.run(new, after: tokens.count, givesLogits: givesLogits)
        tokens += new
        return logits
    }

    private func check(_ prompt: [Int32]) throws {
        guard !prompt.isEmpty else { throw GenerationError.emptyPrompt }
        guard prompt.count < context else {
            throw GenerationError.promptTooLong(tokens: prompt.count, context: context)
        }
        let vocabulary = configuration.vocabularySize
        if let unknown = prompt.first(where: { $0 < 0 || Int($0) >= vocabulary }) {
            throw GenerationError.unknownToken(Int(unknown), vocabulary: vocabulary)
        }
    }
}
