import ApusModels
import ApusSynchronization
import ApusTensor

/// Runs many requests on one model at once: continuous batching over a paged cache.
///
/// ```swift
/// let engine = try Engine(try LanguageModel.load(path: "model.gguf"))
/// let stream = try engine.submit(GenerationRequest(prompt: try engine.model.promptTokens("Hello")))
/// for await case .piece(_, let piece) in stream { print(piece.text, terminator: "") }
/// ```
///
/// A thread of its own computes steps while there is something to do: each appends tokens to many sequences (one to each that
/// decodes, chunks of prompts), draws, and delivers all events of the step together. The engine is shut down when it is dropped with all its streams and
/// tickets.
public final class Engine: Sendable {
    /// The model it was made with.
    public let model: LanguageModel
    /// Sizes and policies.
    public let configuration: EngineConfiguration
    /// Tokens of a sequence at most, prompt and output together.
    public let context: Int
    /// Tokens that the cache holds.
    public let cacheTokens: Int
    let shared: Monitor<EngineShared>
    private let clock = ContinuousClock()
    private let birth: ContinuousClock.Instant

    /// An engine for a model; its thread starts at once.
    /// - Throws: ``EngineError`` when a number is out of range; cache errors when memory cannot be had.
    public init(_ model: LanguageModel, _ configuration: EngineConfiguration = EngineConfiguration()) throws {
        let sizes = try EngineSizes(model, configuration)
        self.model = model
        self.configuration = configuration
        context = sizes.context
        let (executor, pages) = try Self.executor(model, configuration, sizes)
        cacheTokens = pages * configuration.pageSize
        shared = Monitor(EngineShared(metrics: EngineMetrics(context: sizes.context)))
        birth = clock.now
        let core = try EngineCore(model, configuration, sizes, executor, pages: pages, shared)
        let handedOver = Handover(core)
        let shared = shared
        let started = SystemThread.start {
            handedOver.core.run()
            shared.withLock { $0.hasEnded = true }
            shared.signalAll()
        }
        guard started else {
            throw EngineError.step("the system has no thread for the engine")
        }
    }

    deinit { shutdown() }

    /// What computes the steps, and the pages of its cache.
    /// - Parameter leads: whether it tells the other ranks of a cut model; false for one that does what it is told.
    static func executor(
        _ model: LanguageModel, _ configuration: EngineConfiguration, _ sizes: EngineSizes, leads: Bool = true
    ) throws -> (any StepExecutor, pages: Int) {
        guard case .cuda(let ordinal) = configuration.device else {
            let pages = sizes.pages!
            return (try CPUStepExecutor(model.decoder, configuration, pages: pages, leads: leads), pages)
        }
        guard let path = model.path else {
            throw EngineError.unsupported("a model that was not loaded from a path: not on \(configuration.device)")
        }
        let gpu = try GPUDecoder(
            checkpoint: Checkpoints.open(path),
            limits: GPUDecoder.Limits(
                sequences: configuration.maxSequences, tokens: sizes.context, pages: sizes.pages,
                chunk: sizes.stepTokens),
            device: CUDADevice.device(ordinal), ranks: model.tensorParallel)
        let needed = (sizes.context + configuration.pageSize - 1) / configuration.pageSize
        guard gpu.pageCount >= needed else {
            throw EngineError.outOfRange(
                name: "pages that fit into the memory of \(configuration.device)",
                expected: "\(needed) for one sequence of \(sizes.context) tokens (a smaller context helps)",
                found: gpu.pageCount)
        }
        return (GPUStepExecutor(gpu, ranks: model.tensorParallel, leads: leads), gpu.pageCount)
    }

    /// Takes a request; its events come on the stream.
    /// - Throws: ``EngineError`` when the request is not valid, the queue is full or the engine stops.
    public func submit(_ request: GenerationRequest) throws(EngineError) -> GenerationStream {
        try check(request)
        let number = nextNumber()
        // A stream keeps its engine: who reads to the end need not.
        let stream = GenerationStream { [self] in Self.cancel(number, shared) }
        let mailbox = stream.mailbox
        try enter(request, number, .events { mailbox.put($0, isLast: $1) })
        return stream
    }

    /// Takes a request; its events are handed to `receiver`, all of a step in one call, by what runs
    /// ``EngineConfiguration/deliver``.
    /// - Returns: what cancels the request.
    /// - Throws: as ``submit(_:)``.
    public func submit(
        _ request: GenerationRequest,
        receiver: @escaping @Sendable (_ events: [GenerationEvent], _ isLast: Bool) -> Void
    ) throws(EngineError) -> GenerationTicket {
        try check(request)
        let number = nextNumber()
        try enter(request, number, .events(receiver))
        return GenerationTicket { [self] in Self.cancel(number, shared) }
    }

    /// What the engine has done and does now.
    public func metrics() -> EngineMetrics {
        shared.withLock { shared in
            var metrics = shared.metrics
            metrics.waiting += shared.submitted.count
            metrics.waitingTokens = shared.queuedTokens
            return metrics
        }
    }

    /// Refuses new requests, and returns when all that were accepted have ended.
    public func drain() async {
        await withUnsafeContinuation { continuation in
            let isDone = shared.withLock { shared in
                if shared.phase == .accepting { shared.phase = .draining }
                if shared.phase == .stopped || (!shared.isBusy && shared.submitted.isEmpty) { return true }
                shared.drained.append(continuation)
                return false
            }
            if isDone { continuation.resume() }
        }
    }

    /// Refuses new requests and ends, with ``EngineError/shutDown``, those that have not finished.
    public func shutdown() {
        shared.withLock { $0.phase = .stopped }
        shared.signal()
    }

    /// Waits until the engine has ended after a ``shutdown()``, and told so the other ranks of its model.
    public func waitUntilEnded() { shared.wait { $0.hasEnded ? () : nil } }

    func nextNumber() -> Int {
        shared.withLock { shared in
            shared.jobCount += 1
            return shared.jobCount
        }
    }

    /// Puts a request into the queue, where there is room.
    func enter(
        _ request: GenerationRequest, _ number: Int, _ output: Job.Output
    ) throws(EngineError) {
        let now = clock.now
        let aging = configuration.agingInterval.inSeconds
        let age = aging > 0 ? (now - birth).inSeconds / aging : 0
        let job = Job(
            number: number, request: request, output: output, submitted: now,
            order: .init(level: Double(request.priority) + age, arrival: number),
            usesPrefixCache: configuration.usesPrefixCache)
        try shared.withLock { shared throws(EngineError) in
            guard shared.phase == .accepting else {
                throw shared.phase == .stopped ? EngineError.shutDown : EngineError.draining
            }
            let tokens = shared.queuedTokens + request.prompt.count
            guard shared.queuedRequests < configuration.maxQueuedRequests else {
                shared.metrics.refused += 1
                throw EngineError.queueFull(requests: shared.queuedRequests, limit: configuration.maxQueuedRequests)
            }
            guard tokens <= configuration.maxQueuedTokens || shared.queuedRequests == 0 else {
                shared.metrics.refused += 1
                throw EngineError.queueTokensFull(tokens: tokens, limit: configuration.maxQueuedTokens)
            }
            shared.queuedRequests += 1
            shared.queuedTokens = tokens
            shared.submitted.append(job)
        }
        shared.signal()
    }

    private func check(_ request: GenerationRequest) throws(EngineError) {
        guard case .languageModel = model.configuration.head else {
            throw EngineError.unsupported("the model has a score head: it gives scores, no text")
        }
        do { try request.sampling.validate() } catch { throw EngineError.sampling(error) }
        for (name, found, range) in [
            ("n", request.samples, 1...configuration.maxSequences),
            ("prompt logprobs", request.promptLogprobs ?? 0, 0...model.configuration.outputWidth),
        ] where !range.contains(found) {
            throw EngineError.outOfRange(
                name: name, expected: "an integer from \(range.lowerBound) to \(range.upperBound)", found: found)
        }
        try EngineSizes.check(
            request.prompt, context: context, model.configuration, generates: request.sampling.maxTokens > 0)
    }

    static func cancel(_ number: Int, _ shared: Monitor<EngineShared>) {
        shared.withLock { $0.cancelled.append(number) }
        shared.signal()
    }
}

/// Cancels one request.
public struct GenerationTicket: Sendable {
    private let action: @Sendable () -> Void

    init(_ action: @escaping @Sendable () -> Void) { self.action = action }

    /// Ends the request at the next step; samples that have not finished do so with ``FinishReason/cancelled``.
    public func cancel() { action() }
}

/// Carries the core to its thread. Unchecked Sendable: who made it does not touch it again.
private struct Handover: @unchecked Sendable {
    let core: EngineCore
    init(_ core: EngineCore) { self.core = core }
}
