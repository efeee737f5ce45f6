import ApusAttention
import ApusModels
import ApusTensor

/// One growing sequence of tokens of a decoder, and what of it is in the cache. Needs no tokenizer.
///
/// Not for use from several threads at once.
public final class DecodeSession {
    /// The network.
    public let decoder: Decoder
    /// Tokens the session holds at most.
    public let context: Int
    /// The tokens in the cache.
    public private(set) var tokens: [Int32] = []
    private let cache: PagedCache
    private let sequence: CacheSequence

    /// An empty session.
    /// - Parameters:
    ///   - context: tokens it can hold; by default the model's own limit, at most 4096.
    ///   - cacheType: f32, bf16, f16 or q8_0; nil takes the model's default.
    public init(_ decoder: Decoder, context: Int? = nil, cacheType: DType? = nil) throws {
        self.decoder = decoder
        self.context = context ?? min(decoder.configuration.maxPositions, 4096)
        cache = try decoder.makeCache(tokens: self.context, type: cacheType)
        sequence = cache.makeSequence()
    }

    /// Makes the session's tokens `prompt`, computing what is not in the cache yet; the last token is always computed.
    /// - Returns: the logits after the prompt, [1, vocabulary], and how many of its tokens were in the cache.
    /// - Throws: ``GenerationError`` when the prompt is empty, too long, or holds unknown tokens.
    public func start(_ prompt: [Int32]) throws -> (logits: Tensor, cached: Int) {
        try check(prompt)
        var common = 0
        while common < min(tokens.count, prompt.count - 1), tokens[common] == prompt[common] { common += 1 }
        try cache.truncate(sequence, to: common)
        tokens.removeLast(tokens.count - common)
        var rest = prompt[common...]
        for step in decoder.prefillSteps(rest.count).dropLast() {
            _ = try run(Array(rest.prefix(step)), .none)
            rest = rest.dropFirst(step)
        }
        return (try run(Array(rest), .last), common)
    }

    /// Whether another token fits.
    public var hasRoom: Bool { tokens.count < context }

    /// Appends one token.
    /// - Returns: the logits after it, [1, vocabulary].
    public func append(_ token: Int32) throws -> Tensor { try run([token], .last) }

    private func run(_ new: [Int32], _ wanted: DecoderInput.Logits) throws -> Tensor {
        let logits = try decoder.forward([DecoderInput(tokens: new, sequence: sequence, logits: wanted)], cache: cache)
        tokens += new
        return logits
    }

    private func check(_ prompt: [Int32]) throws {
        guard !prompt.isEmpty else { throw GenerationError.emptyPrompt }
        guard prompt.count < context else {
            throw GenerationError.promptTooLong(tokens: prompt.count, context: context)
        }
        let vocabulary = decoder.configuration.vocabularySize
        if let unknown = prompt.first(where: { $0 < 0 || Int($0) >= vocabulary }) {
            throw GenerationError.unknownToken(Int(unknown), vocabulary: vocabulary)
        }
    }
}
