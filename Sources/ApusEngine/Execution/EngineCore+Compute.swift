import ApusModels
import ApusTensor

/// Computing a step and drawing from it.
extension EngineCore {
    /// Logits of a prompt that exist at once: a piece of rows, never the whole prompt.
    private static let promptRows = 64

    /// Runs a planned step, draws what it gives, and tells scheduler and requests.
    func compute(_ plan: StepPlan) throws {
        for (from, to) in plan.copies { try executor.copyPage(from: from, to: to) }
        try runLayers(plan)
        var first = 0
        for entry in plan.entries {
            let count = entry.count + entry.drafts
            try pool(entry, first..<first + count)
            try reportPrompt(entry, first: first)
            first += count
        }
        let draws = makeDraws(plan)
        try draw(draws)
        let now = clock.now
        for draw in draws {
            for sample in draw.samples where !sample.job.hasEnded { take(sample, drafted: draw.drafts.count, now) }
        }
    }

    private func runLayers(_ plan: StepPlan) throws {
        var tokens: [Int32] = []
        tokens.reserveCapacity(plan.tokens)
        for entry in plan.entries {
            tokens += entry.sequence.tokens[entry.start..<entry.start + entry.count]
            tokens += entry.sequence.drafts.prefix(entry.drafts)
        }
        try executor.runLayers(
            tokens,
            plan.entries.map {
                StepTable(pages: $0.sequence.pages, length: $0.start, tokens: $0.count + $0.drafts)
            })
    }

    /// The rows of hidden states that samples draw from: the last token's of each entry that reaches its end, and the drafts'.
    /// Where nothing is drawn, the entry is done.
    private func makeDraws(_ plan: StepPlan) -> [Draw] {
        var draws: [Draw] = []
        var first = 0
        for entry in plan.entries {
            let rows = first + entry.count - 1..<first + entry.count + entry.drafts
            first += entry.count + entry.drafts
            let sequence = entry.sequence
            guard sequence.state == .running, let sample = samples[ObjectIdentifier(sequence)] else { continue }
            let drafts = sample.drafts.prefix(entry.drafts)
            if entry.drafts == 0 { scheduler.advance(sequence, to: entry.start + entry.count) }
            guard entry.reachesEnd else { continue }
            var drawers = [sample]
            for _ in 0..<sequence.forks {
                if let sample = makeSample(sample.job, scheduler.fork(sequence)) { drawers.append(sample) }
            }
            if sample.hasRoom {
                draws.append(Draw(samples: drawers, rows: rows, drafts: drafts))
            } else {
                for drawer in drawers { finish(drawer, .length, clock.now) }
            }
        }
        return draws
    }

    /// Several workers draw, each for the samples of one row.
    private func draw(_ draws: [Draw]) throws {
        guard !draws.isEmpty else { return }
        let rows = draws.flatMap { Array($0.rows) }
        if draws.allSatisfy({ $0.takesLikeliest }), let tokens = try executor.likeliestTokens(rows: rows) {
            // One row each: what takes the likeliest token has no drafts.
            for (draw, token) in zip(draws, tokens) { for sample in draw.samples { sample.take(token, model: model) } }
            return
        }
        let logits = try executor.logits(rows: rows)
        var starts: [Int] = []
        var start = 0
        for draw in draws {
            starts.append(start)
            start += draw.rows.count
        }
        logits.withMutableElements(of: Float.self) { elements in
            guard let base = elements.baseAddress else { return }
            let all = LogitRows(base: base, width: logits.shape[1], count: rows.count)
            model.backend.concurrently(draws.count) { [model, starts] index in
                let draw = draws[index]
                draw.run(all.rows(from: starts[index], count: draw.rows.count), model)
            }
        }
    }

    /// Takes over what one sample drew.
    private func take(_ sample: SampleRun, drafted: Int, _ now: ContinuousClock.Instant) {
        let outcome = sample.outcome
        if let error = outcome.error {
            for sample in sample.job.samples where sample.sequence.state == .running {
                scheduler.forget(sample.sequence)
            }
            fail(sample.job, error)
            return
        }
        let sequence = sample.sequence
        scheduler.append(outcome.tokens.map(\.token), to: sequence)
        scheduler.advance(sequence, to: sequence.tokens.count - 1)
        // The last token is the model's own, unless the sample ended with a draft that was accepted.
        let accepted = zip(outcome.tokens, sample.drafts.prefix(drafted)).prefix { $0.token == $1.token }.count
        recorder.drew(sample, drafted: drafted, accepted: accepted, now)
        sample.statistics.generatedTokens += outcome.tokens.count
        if drafted > 0 {
            sample.statistics.draftedTokens += drafted
            sample.statistics.acceptedTokens += accepted
            sample.drafting.observe(drafted: drafted, accepted: accepted)
        }
        if sample.firstToken == nil { sample.firstToken = now }
        sample.lastToken = now
        var text = outcome.text
        if outcome.ending != nil { text += sample.finishText() }
        emit(sample.job, .piece(index: sample.index, GenerationPiece(text: text, tokens: outcome.tokens)))
        if let ending = outcome.ending { finish(sample, ending, now) }
    }

    /// Log-probabilities of a prompt's tokens from the rows of the tokens before them, a bounded piece at a time.
    /// - Parameter first: the entry's first row among the step's.
    private func reportPrompt(_ entry: StepPlan.Entry, first: Int) throws {
        guard let job = jobs[entry.sequence.tag], let alternatives = job.request.promptLogprobs else { return }
        let prompt = job.request.prompt
        if job.promptLogprobs.isEmpty { job.promptLogprobs = [SampledToken(token: prompt[0])] }
        guard job.promptLogprobs.count < prompt.count else { return report(job) }
        let end = min(entry.start + entry.count, prompt.count - 1)
        // A prompt that is recomputed has reported its beginning already.
        var row = job.promptLogprobs.count - 1
        while row < end {
            let piece = row..<min(row + Self.promptRows, end)
            let offset = first - entry.start
            let logits = try executor.logits(rows: Array(piece.lowerBound + offset..<piece.upperBound + offset))
            let targets = Array(prompt[piece.lowerBound + 1...piece.upperBound])
            guard let sums = logSums(logits) else {
                scheduler.forget(entry.sequence)
                return fail(job, .notFinite(sample: 0, position: 0))
            }
            logits.withMutableElements(of: Float.self) { elements in
                let rows = LogitRows(base: elements.baseAddress!, width: logits.shape[1], count: piece.count)
                for (index, target) in targets.enumerated() {
                    let row = UnsafeBufferPointer(rows[index])
                    let top = Candidates.largest(row, count: alternatives)
                    job.promptLogprobs.append(
                        SampledToken(
                            token: target, logprob: Double(row[Int(target)]) - sums[index],
                            alternatives: top.map {
                                TokenLogprob(token: $0, logprob: Double(row[Int($0)]) - sums[index])
                            }))
                }
            }
            row = piece.upperBound
        }
        report(job)
    }

    /// Of each row of logits what a draw subtracts from a logit, so that a token has the same log-probability in a prompt as
    /// when it was drawn; nil where a row has no largest logit.
    private func logSums(_ logits: Tensor) -> [Double]? {
        var sums = [Double](repeating: .nan, count: logits.shape[0])
        logits.withMutableElements(of: Float.self) { elements in
            let rows = LogitRows(base: elements.baseAddress!, width: logits.shape[1], count: sums.count)
            sums.withUnsafeMutableBufferPointer { sums in
                // Unchecked: each row's sum is written by one worker.
                nonisolated(unsafe) let sums = sums
                model.backend.concurrently(sums.count) { index in
                    let row = UnsafeBufferPointer(rows[index])
                    guard let best = LogitScan.largest(row) else { return }
                    sums[index] = Exponentials.logSum(row, largest: best.value)
                }
            }
        }
        return sums.allSatisfy { !$0.isNaN } ? sums : nil
    }

    private func report(_ job: Job) {
        guard !job.hasReportedPrompt, job.promptLogprobs.count == job.request.prompt.count else { return }
        job.hasReportedPrompt = true
        emit(job, .promptLogprobs(job.promptLogprobs))
    }
}

/// The rows that some samples draw from: one row for all samples of a prompt, or one sample's row and its drafts'.
private struct Draw: Sendable {
    let samples: [SampleRun]
    let rows: Range<Int>
    let drafts: ArraySlice<DraftToken>

    /// Whether the likeliest tokens are all that is asked for.
    var takesLikeliest: Bool { rows.count == 1 && samples.allSatisfy(\.takesLikeliest) }

    func run(_ logits: LogitRows, _ model: LanguageModel) {
        for (index, sample) in samples.enumerated() {
            if index == samples.count - 1 {
                sample.draw(rows: logits, drafts: drafts, model: model)
            } else {
                // Drawing changes its row, which others have yet to draw from.
                withUnsafeTemporaryAllocation(of: Float.self, capacity: logits.width) { copy in
                    _ = copy.update(from: logits[0])
                    let row = LogitRows(base: copy.baseAddress!, width: logits.width, count: 1)
                    sample.draw(rows: row, drafts: [], model: model)
                }
            }
        }
    }
}
