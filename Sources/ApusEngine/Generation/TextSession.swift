import ApusAttention
import ApusModels
import ApusTensor
import ApusText

/// One growing sequence of a model: generates, and keeps what it computed for the next call.
///
/// A call whose prompt begins with the tokens of the calls before it (the next turn of a chat) computes only what is new.
/// Not for use from several threads at once.
public final class TextSession {
    /// A piece of the output as it is made: the text that became certain with this token, possibly none.
    public struct Piece: Sendable {
        /// Text to show.
        public let text: String
        /// The token that was drawn.
        public let token: SampledToken
    }

    /// Tokens of one prefill step: long prompts run in pieces of this size, which bounds the memory of activations.
    static let prefillChunk = 512

    /// The model.
    public let model: LanguageModel
    /// Tokens the context holds.
    public let context: Int
    private let cache: PagedCache
    private var sequence: CacheSequence
    private var cached: [Int32] = []

    /// An empty session.
    /// - Parameters:
    ///   - context: tokens it can hold; by default the model's own limit, at most 4096.
    ///   - cacheType: f32, bf16 or q8_0; nil takes the model's default.
    public init(_ model: LanguageModel, context: Int? = nil, cacheType: DType? = nil) throws {
        self.model = model
        self.context = context ?? min(model.decoder.configuration.maxPositions, 4096)
        cache = try model.decoder.makeCache(tokens: self.context, type: cacheType)
        sequence = cache.makeSequence()
    }

    /// Generates after `prompt`.
    /// - Parameter emit: called with each piece; returning false ends the generation.
    /// - Throws: ``GenerationError``, ``SamplingError``.
    public func generate(
        _ prompt: [Int32], _ parameters: SamplingParameters, emit: (Piece) -> Bool = { _ in true }
    ) throws -> GenerationResult {
        try check(prompt)
        var sampler = try Sampler(parameters, prompt: prompt)
        let clock = ContinuousClock()
        let start = clock.now
        var statistics = GenerationStatistics()
        statistics.promptTokens = prompt.count
        statistics.cachedTokens = try rewind(to: prompt)
        var output = OutputText(model: model, stop: parameters.stop)
        var tokens: [SampledToken] = []
        var reason = FinishReason.length
        if parameters.maxTokens > 0 {
            var logits = try prefill(Array(prompt[statistics.cachedTokens...]))
            var firstToken: ContinuousClock.Instant?
            while true {
                let drawn = try logits.withMutableElements(of: Float.self) { try sampler.next($0) }
                tokens.append(drawn)
                if firstToken == nil { firstToken = clock.now }
                let ends = !parameters.ignoreEndOfSequence && model.endsSequence(drawn.token)
                let (text, stopped) = ends ? ("", true) : output.push(drawn.token)
                let goesOn = emit(Piece(text: text, token: drawn))
                if stopped { reason = .stop } else if !goesOn { reason = .cancelled }
                if stopped || !goesOn || tokens.count >= parameters.maxTokens || cached.count + 1 >= context { break }
                logits = try step([drawn.token])
            }
            let end = clock.now
            statistics.secondsToFirstToken = ((firstToken ?? end) - start).seconds
            statistics.generationSeconds = (end - (firstToken ?? end)).seconds
        }
        statistics.generatedTokens = tokens.count
        if let rest = output.finish(), let last = tokens.last { _ = emit(Piece(text: rest, token: last)) }
        return GenerationResult(text: output.text, tokens: tokens, finishReason: reason, statistics: statistics)
    }

    private func check(_ prompt: [Int32]) throws {
        guard !prompt.isEmpty else { throw GenerationError.emptyPrompt }
        guard prompt.count < context else {
            throw GenerationError.promptTooLong(tokens: prompt.count, context: context)
        }
        let vocabulary = model.decoder.configuration.vocabularySize
        if let unknown = prompt.first(where: { $0 < 0 || Int($0) >= vocabulary }) {
            throw GenerationError.unknownToken(Int(unknown), vocabulary: vocabulary)
        }
    }

    /// Cuts the cache to the longest common beginning with `prompt`; its last token is always computed anew.
    private func rewind(to prompt: [Int32]) throws -> Int {
        var common = 0
        while common < min(cached.count, prompt.count - 1), cached[common] == prompt[common] { common += 1 }
        try cache.truncate(sequence, to: common)
        cached.removeLast(cached.count - common)
        return common
    }

    private func prefill(_ tokens: [Int32]) throws -> Tensor {
        var start = 0
        while tokens.count - start > Self.prefillChunk {
            let chunk = Array(tokens[start..<(start + Self.prefillChunk)])
            _ = try model.decoder.forward(
                [DecoderInput(tokens: chunk, sequence: sequence, logits: .none)], cache: cache)
            cached += chunk
            start += chunk.count
        }
        return try step(Array(tokens[start...]))
    }

    private func step(_ tokens: [Int32]) throws -> Tensor {
        let logits = try model.decoder.forward(
            [DecoderInput(tokens: tokens, sequence: sequence, logits: .last)], cache: cache)
        cached += tokens
        return logits
    }
}

extension Duration {
    /// Seconds as a number.
    var seconds: Double { Double(components.seconds) + Double(components.attoseconds) * 1e-18 }
}
