import ApusModels
import ApusTensor
import ApusText

/// Generates text from one model, a call after another.
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

    /// The model.
    public let model: LanguageModel
    private let session: DecodeSession

    /// An empty session; see ``DecodeSession``.
    /// - Parameter device: where tokens are computed; on a GPU the model need not have its weights in this process, but it
    ///   must have been loaded from a path.
    public init(
        _ model: LanguageModel, context: Int? = nil, cacheType: DType? = nil, device: Device = .cpu
    ) throws {
        self.model = model
        guard case .cuda(let ordinal) = device else {
            session = try DecodeSession(model.decoder, context: context, cacheType: cacheType)
            return
        }
        guard let path = model.path else {
            throw EngineError.unsupported("a model that was not loaded from a path: not on \(device)")
        }
        session = try DecodeSession(
            path: path, device: ordinal, context: context, cacheType: cacheType, ranks: model.tensorParallel)
    }

    /// Generates after `prompt`.
    /// - Parameter emit: called with each piece; returning false ends the generation.
    /// - Throws: ``GenerationError``, ``SamplingError``.
    public func generate(
        _ prompt: [Int32], _ parameters: SamplingParameters, emit: (Piece) -> Bool = { _ in true }
    ) throws -> GenerationResult {
        var sampler = try Sampler(parameters, prompt: prompt)
        let clock = ContinuousClock()
        let start = clock.now
        var statistics = GenerationStatistics()
        statistics.promptTokens = prompt.count
        var output = OutputText(model: model, stop: parameters.stop)
        var tokens: [SampledToken] = []
        var reason = FinishReason.length
        var (logits, cached) = try session.start(prompt)
        statistics.cachedTokens = cached
        var firstToken: ContinuousClock.Instant?
        while tokens.count < parameters.maxTokens {
            let drawn = try logits.withMutableElements(of: Float.self) { try sampler.next($0) }
            tokens.append(drawn)
            if firstToken == nil { firstToken = clock.now }
            let ends = !parameters.ignoreEndOfSequence && model.endsSequence(drawn.token)
            let (text, stopped) = ends ? ("", true) : output.push(drawn.token)
            let goesOn = emit(Piece(text: text, token: drawn))
            if stopped { reason = .stop } else if !goesOn { reason = .cancelled }
            guard !stopped, goesOn, tokens.count < parameters.maxTokens, session.hasRoom else { break }
            logits = try session.append(drawn.token)
        }
        let end = clock.now
        statistics.secondsToFirstToken = ((firstToken ?? end) - start).inSeconds
        statistics.generationSeconds = (end - (firstToken ?? end)).inSeconds
        statistics.generatedTokens = tokens.count
        if let rest = output.finish(), let last = tokens.last { _ = emit(Piece(text: rest, token: last)) }
        return GenerationResult(text: output.text, tokens: tokens, finishReason: reason, statistics: statistics)
    }
}
