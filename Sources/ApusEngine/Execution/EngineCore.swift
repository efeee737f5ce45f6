import ApusModels
import ApusSynchronization
import ApusTensor

/// What the engine's thread does: takes news, plans a step, computes it, draws, delivers.
final class EngineCore {
    let model: LanguageModel
    let configuration: EngineConfiguration
    let context: Int
    let shared: Monitor<EngineShared>
    let clock = ContinuousClock()
    var scheduler: Scheduler
    /// Requests that have not ended.
    var jobs: [Int: Job] = [:]
    /// Samples by their sequence.
    var samples: [ObjectIdentifier: SampleRun] = [:]
    /// Requests with events to deliver.
    var touched: [Job] = []
    var recorder = StepRecorder()
    var draftPlanner: DraftPlanner
    let draftModel: DraftModel?
    /// Computes the steps.
    let executor: any StepExecutor

    init(
        _ model: LanguageModel, _ configuration: EngineConfiguration, _ sizes: EngineSizes,
        _ executor: any StepExecutor, pages: Int, _ shared: Monitor<EngineShared>
    ) throws {
        self.model = model
        self.configuration = configuration
        self.shared = shared
        context = sizes.context
        self.executor = executor
        var limits = Scheduler.Limits(
            stepTokens: sizes.stepTokens, maxSequences: configuration.maxSequences, pages: pages,
            pageSize: configuration.pageSize, exactTokens: sizes.exactTokens)
        limits.promptTokensBesideDecoding = configuration.promptTokensBesideDecoding
        scheduler = Scheduler(limits)
        draftPlanner = DraftPlanner(rows: min(configuration.stepTokens, 128))
        if case .draftModel(let draft) = configuration.speculation {
            draftModel = try DraftModel(
                draft, for: model.configuration, pages: pages, pageSize: configuration.pageSize,
                stepTokens: configuration.stepTokens)
        } else {
            draftModel = nil
        }
        shared.withLock { $0.metrics.pages = pages }
    }

    /// Steps until the engine stops.
    func run() {
        while takeNews() {
            checkDeadlines()
            if !scheduler.isIdle { step() }
            publish()
        }
        for job in jobs.values { fail(job, .shutDown) }
        publish()
        executor.stop()
        shared.withLock { shared in
            defer { shared.replacement = nil }
            return shared.replacement
        }?.isDone(true)
    }

    private typealias News = (submitted: [Job], cancelled: [Int], replacement: WeightReplacement?, stops: Bool)

    private func replace(_ replacement: WeightReplacement) {
        executor.replaceWeights(by: replacement.decoder)
        switch replacement.running {
        case .recompute: scheduler.invalidate()
        case .goOn: scheduler.forgetAll()
        }
        replacement.isDone(false)
    }

    /// Takes submissions and cancellations; waits for them when there is nothing else to do.
    /// - Returns: false when the engine stops.
    private func takeNews() -> Bool {
        let mayWait = jobs.isEmpty
        let news = waitForNews { shared -> News? in
            if mayWait && !shared.hasNews { return nil }
            defer {
                shared.submitted = []
                shared.cancelled = []
                shared.replacement = nil
                shared.isBusy = true
            }
            return (shared.submitted, shared.cancelled, shared.replacement, shared.phase == .stopped)
        }
        if let replacement = news.replacement { replace(replacement) }
        for job in news.submitted {
            jobs[job.number] = job
            scheduler.add(job.sequence)
        }
        for number in news.cancelled {
            guard let job = jobs[number] else { continue }
            cancel(job)
        }
        return !news.stops
    }

    /// Waits for news, and meanwhile says so where others wait for this engine.
    private func waitForNews(_ body: (inout EngineShared) -> News?) -> News {
        guard let seconds = executor.idleSeconds else { return shared.wait(body) }
        while true {
            if let news = shared.wait(seconds: seconds, body) { return news }
            executor.idle()
        }
    }

    private func checkDeadlines() {
        guard jobs.values.contains(where: { $0.request.deadline != nil }) else { return }
        let now = clock.now
        for job in Array(jobs.values) {
            if let deadline = job.request.deadline, deadline <= now { fail(job, .deadlineExceeded) }
        }
    }

    private func step() {
        planDrafts()
        let plan = scheduler.schedule()
        begin(plan.admitted)
        let start = clock.now
        do { try compute(plan) } catch {
            for entry in plan.entries {
                if let job = jobs[entry.sequence.tag] { fail(job, .step("\(error)")) }
            }
            return
        }
        if plan.entries.allSatisfy({ $0.count == 1 }) {
            draftPlanner.observe(rows: plan.tokens, seconds: (clock.now - start).inSeconds)
        }
        recorder.step(tokens: plan.tokens)
    }

    /// Makes the first sample of each request that leaves the queue.
    private func begin(_ admitted: [ScheduledSequence]) {
        let now = clock.now
        for sequence in admitted {
            guard let job = jobs[sequence.tag], job.started == nil else { continue }
            job.started = now
            recorder.left(queue: job, after: (now - job.submitted).inSeconds)
            guard case .events = job.output else { continue }
            emit(job, .started(cachedTokens: sequence.found))
            makeSample(job, sequence)
        }
    }

    /// Makes a request's next sample.
    @discardableResult func makeSample(_ job: Job, _ sequence: ScheduledSequence) -> SampleRun? {
        do {
            let sample = try SampleRun(
                job: job, index: job.samples.count, sequence: sequence, model: model,
                room: context - job.request.prompt.count)
            sample.statistics.cachedTokens = job.sequence.found
            sample.statistics.queueSeconds = ((job.started ?? job.submitted) - job.submitted).inSeconds
            job.samples.append(sample)
            samples[ObjectIdentifier(sequence)] = sample
            return sample
        } catch {
            fail(job, error)
            return nil
        }
    }

    /// Adds an event to a request's next delivery.
    func emit(_ job: Job, _ event: GenerationEvent) {
        if job.events.isEmpty { touched.append(job) }
        job.events.append(event)
    }

    private func publish() {
        let deliveries = touched.compactMap { $0.takeDelivery() }
        touched = []
        let isIdle = jobs.isEmpty
        let drained = shared.withLock { shared in
            recorder.publish(to: &shared, scheduler)
            guard isIdle, shared.submitted.isEmpty else { return [UnsafeContinuation<Void, Never>]() }
            shared.isBusy = false
            defer { shared.drained = [] }
            return shared.drained
        }
        if !deliveries.isEmpty {
            configuration.deliver { for delivery in deliveries { delivery() } }
        }
        for continuation in drained { continuation.resume() }
    }
}
