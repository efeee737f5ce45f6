/// Collects what the engine's thread observes in a step, and hands it over under the lock once.
struct StepRecorder {
    private var observations: [(inout EngineMetrics) -> Void] = []
    private var leftRequests = 0
    private var leftTokens = 0

    private mutating func add(_ observation: @escaping (inout EngineMetrics) -> Void) {
        observations.append(observation)
    }

    /// A step was computed.
    mutating func step(tokens: Int) {
        add {
            $0.steps += 1
            $0.tokensPerStep.record(Double(tokens))
        }
    }

    /// A request left the queue: to run, or nil where it ended there.
    mutating func left(queue job: Job, after seconds: Double?) {
        leftRequests += 1
        leftTokens += job.request.prompt.count
        guard let seconds else { return }
        guard case .events = job.output else {
            add { [count = job.request.prompt.count] in
                $0.queueTime.record(seconds)
                $0.promptTokens += count
            }
            return
        }
        let request = job.request
        add {
            $0.queueTime.record(seconds)
            $0.promptTokens += request.prompt.count
            $0.promptLength.record(Double(request.prompt.count))
            $0.maxTokens.record(Double(request.sampling.maxTokens))
            $0.samples.record(Double(request.samples))
        }
    }

    /// A sample drew tokens.
    mutating func drew(_ sample: SampleRun, drafted: Int, accepted: Int, _ now: ContinuousClock.Instant) {
        let count = sample.outcome.tokens.count
        let sinceLast = sample.lastToken.map { (now - $0).inSeconds }
        let sinceSubmission = (now - sample.job.submitted).inSeconds
        let sinceStart = (now - (sample.job.started ?? sample.job.submitted)).inSeconds
        add { metrics in
            metrics.generationTokens += count
            if let sinceLast {
                metrics.interTokenLatency.record(sinceLast)
            } else {
                metrics.timeToFirstToken.record(sinceSubmission)
                metrics.prefillTime.record(sinceStart)
            }
            guard drafted > 0 else { return }
            metrics.drafts += 1
            metrics.draftedTokens += drafted
            metrics.acceptedTokens += accepted
            while metrics.acceptedByPlace.count < drafted { metrics.acceptedByPlace.append(0) }
            for place in 0..<accepted { metrics.acceptedByPlace[place] += 1 }
        }
    }

    /// A sample ended.
    mutating func finished(_ sample: SampleRun, _ reason: FinishReason, _ now: ContinuousClock.Instant) {
        let statistics = sample.statistics
        let total = (now - sample.job.submitted).inSeconds
        let running = (now - (sample.job.started ?? now)).inSeconds
        add { metrics in
            metrics.finished[reason, default: 0] += 1
            metrics.endToEnd.record(total)
            metrics.inferenceTime.record(running)
            metrics.decodeTime.record(statistics.generationSeconds)
            metrics.generationLength.record(Double(statistics.generatedTokens))
            if statistics.generatedTokens > 1 {
                metrics.timePerOutputToken.record(
                    statistics.generationSeconds / Double(statistics.generatedTokens - 1))
            }
        }
    }

    /// A sample was cancelled before it began.
    mutating func cancelledUnstarted() { add { $0.finished[.cancelled, default: 0] += 1 } }

    /// A request ended without its result.
    mutating func failed() { add { $0.failed += 1 } }

    /// Hands everything over.
    mutating func publish(to shared: inout EngineShared, _ scheduler: Scheduler) {
        for observation in observations { observation(&shared.metrics) }
        observations.removeAll(keepingCapacity: true)
        shared.queuedRequests -= leftRequests
        shared.queuedTokens -= leftTokens
        (leftRequests, leftTokens) = (0, 0)
        shared.metrics.running = scheduler.running.count
        shared.metrics.waiting = scheduler.waiting.count
        shared.metrics.usedPages = scheduler.pool.heldCount
        shared.metrics.reusablePages = scheduler.pool.reusableCount
        shared.metrics.preemptions = scheduler.counts.preemptions
        shared.metrics.prefixQueries = scheduler.counts.prefixQueries
        shared.metrics.prefixHits = scheduler.counts.prefixHits
    }
}
