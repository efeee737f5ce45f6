/// How samples and requests end.
extension EngineCore {
    /// Ends a sample; its request ends with its last one.
    func finish(_ sample: SampleRun, _ reason: FinishReason, _ now: ContinuousClock.Instant) {
        let job = sample.job
        let first = sample.firstToken ?? now
        sample.statistics.secondsToFirstToken = (first - job.submitted).inSeconds
        sample.statistics.generationSeconds = ((sample.lastToken ?? first) - first).inSeconds
        sample.ending = reason
        recorder.finished(sample, reason, now)
        release(sample)
        job.unfinished -= 1
        if job.unfinished == 0 { end(job) }
        emit(job, .finished(index: sample.index, reason, sample.statistics))
    }

    /// Ends a request without its result.
    func fail(_ job: Job, _ error: EngineError) {
        guard !job.hasEnded else { return }
        drop(job)
        recorder.failed()
        emit(job, .failed(error))
    }

    /// Ends a request whose vector is there.
    func complete(_ job: Job) {
        drop(job)
        touched.append(job)
    }

    /// Ends the samples of a request that have not finished.
    func cancel(_ job: Job) {
        guard !job.hasEnded else { return }
        if case .vector = job.output { return fail(job, .cancelled) }
        let now = clock.now
        for sample in job.samples where sample.ending == nil { finish(sample, .cancelled, now) }
        guard !job.hasEnded else { return }
        let missing = job.samples.count..<job.request.samples
        drop(job)
        var statistics = GenerationStatistics()
        statistics.promptTokens = job.request.prompt.count
        for index in missing {
            recorder.cancelledUnstarted()
            emit(job, .finished(index: index, .cancelled, statistics))
        }
    }

    private func drop(_ job: Job) {
        scheduler.finish(job.sequence)
        for sample in job.samples { release(sample) }
        end(job)
    }

    /// Gives back what a sample holds.
    private func release(_ sample: SampleRun) {
        scheduler.finish(sample.sequence)
        draftModel?.drop(sample.sequence)
        samples[ObjectIdentifier(sample.sequence)] = nil
    }

    private func end(_ job: Job) {
        if job.started == nil { recorder.left(queue: job, after: nil) }
        job.hasEnded = true
        jobs[job.number] = nil
    }
}
