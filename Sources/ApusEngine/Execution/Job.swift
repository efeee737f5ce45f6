/// A request that the engine has accepted.
///
/// Unchecked Sendable: it is handed to the engine's thread, which owns it from then on.
final class Job: @unchecked Sendable {
    /// Takes events, in order; the flag says that none follow.
    typealias Receiver = @Sendable (_ events: [GenerationEvent], _ isLast: Bool) -> Void

    let number: Int
    let request: GenerationRequest
    let receiver: Receiver
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

    init(
        number: Int, request: GenerationRequest, receiver: @escaping Receiver, submitted: ContinuousClock.Instant,
        order: ScheduledSequence.Order, usesPrefixCache: Bool
    ) {
        self.number = number
        self.request = request
        self.receiver = receiver
        self.submitted = submitted
        let prefixUse: PrefixUse = !usesPrefixCache ? .none : request.promptLogprobs == nil ? .readWrite : .write
        sequence = ScheduledSequence(
            order: order, tag: number, tokens: request.prompt, forks: request.samples - 1, prefixUse: prefixUse)
        unfinished = request.samples
    }
}
