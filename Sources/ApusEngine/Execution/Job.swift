/// A request that the engine has accepted.
///
/// Unchecked Sendable: it is handed to the engine's thread, which owns it from then on.
final class Job: @unchecked Sendable {
    /// Takes events, in order; the flag says that none follow.
    typealias Receiver = @Sendable (_ events: [GenerationEvent], _ isLast: Bool) -> Void

    /// What is wanted of a request.
    enum Output {
        /// Text, as events.
        case events(Receiver)
        /// One vector, made of the prompt's hidden states.
        case vector(VectorKind, @Sendable (Result<[Float], EngineError>) -> Void)
    }

    /// Which vector.
    enum VectorKind: Sendable {
        case embedding(EmbeddingPooling)
        case scores
    }

    let number: Int
    let request: GenerationRequest
    let output: Output
    let submitted: ContinuousClock.Instant
    let sequence: ScheduledSequence
    /// When it first ran.
    var started: ContinuousClock.Instant?
    /// Samples, as they come to be.
    var samples: [SampleRun] = []
    var unfinished: Int
    var events: [GenerationEvent] = []
    var hasEnded = false
    /// Log-probabilities of the prompt's tokens so far.
    var promptLogprobs: [SampledToken] = []
    var hasReportedPrompt = false
    /// The vector so far.
    var vector: [Float] = []

    init(
        number: Int, request: GenerationRequest, output: Output, submitted: ContinuousClock.Instant,
        order: ScheduledSequence.Order, usesPrefixCache: Bool
    ) {
        self.number = number
        self.request = request
        self.output = output
        self.submitted = submitted
        let prefixUse: PrefixUse = !usesPrefixCache ? .none : Self.needsAllRows(request, output) ? .write : .readWrite
        sequence = ScheduledSequence(
            order: order, tag: number, tokens: request.prompt, forks: request.samples - 1, prefixUse: prefixUse)
        unfinished = request.samples
    }

    /// Whether every token of the prompt must be computed, so that none may come from the prefix cache.
    private static func needsAllRows(_ request: GenerationRequest, _ output: Output) -> Bool {
        if case .vector(.embedding(.mean), _) = output { return true }
        return request.promptLogprobs != nil
    }

    /// What hands over the events that have gathered, or the vector at the end; nil when nothing is due.
    func takeDelivery() -> (@Sendable () -> Void)? {
        defer { events = [] }
        switch output {
        case .events(let receiver):
            return { [events, hasEnded] in receiver(events, hasEnded) }
        case .vector(_, let complete):
            guard hasEnded else { return nil }
            for case .failed(let error) in events { return { complete(.failure(error)) } }
            return { [vector] in complete(.success(vector)) }
        }
    }
}
