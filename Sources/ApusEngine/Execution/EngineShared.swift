import ApusModels

/// What the engine's thread and its callers share, behind one lock.
struct EngineShared {
    enum Phase {
        case accepting
        case draining
        case stopped
    }

    /// Whether the engine's thread has ended.
    var hasEnded = false
    var phase = Phase.accepting
    var submitted: [Job] = []
    var cancelled: [Int] = []
    var replacement: WeightReplacement?
    var drained: [UnsafeContinuation<Void, Never>] = []
    var jobCount = 0
    /// Requests that have not begun to run, and their prompts' tokens.
    var queuedRequests = 0
    var queuedTokens = 0
    var isBusy = false
    var metrics: EngineMetrics

    var hasNews: Bool { !submitted.isEmpty || !cancelled.isEmpty || replacement != nil || phase == .stopped }
}

/// Weights to go on with.
struct WeightReplacement: Sendable {
    let decoder: Decoder
    let running: RunningSequences
    /// Told when the weights are in use, or that the engine has stopped.
    let isDone: @Sendable (_ isStopped: Bool) -> Void
}
