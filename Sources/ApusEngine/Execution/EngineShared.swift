/// What the engine's thread and its callers share, behind one lock.
struct EngineShared {
    enum Phase {
        case accepting
        case draining
        case stopped
    }

    var phase = Phase.accepting
    var submitted: [Job] = []
    var cancelled: [Int] = []
    var drained: [UnsafeContinuation<Void, Never>] = []
    var jobCount = 0
    /// Requests that have not begun to run, and their prompts' tokens.
    var queuedRequests = 0
    var queuedTokens = 0
    var isBusy = false
    var metrics: EngineMetrics

    var hasNews: Bool { !submitted.isEmpty || !cancelled.isEmpty || phase == .stopped }
}
