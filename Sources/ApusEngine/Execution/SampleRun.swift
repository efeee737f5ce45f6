import ApusText

/// One sample of a request: its sequence, how its tokens are drawn, and what they became.
///
/// Unchecked Sendable: the engine's thread owns it; while a step draws, one worker alone touches it.
final class SampleRun: @unchecked Sendable {
    /// What one step gave.
    struct Outcome {
        var tokens: [SampledToken] = []
        var text = ""
        var ending: FinishReason?
        var error: EngineError?
    }

    let index: Int
    unowned let job: Job
    let sequence: ScheduledSequence
    /// What the last step gave.
    private(set) var outcome = Outcome()
    var statistics = GenerationStatistics()
    /// Why it ended, once it has.
    var ending: FinishReason?
    var firstToken: ContinuousClock.Instant?
    var lastToken: ContinuousClock.Instant?
    private(set) var sampler: Sampler
    /// Tokens to check in the next step, as drafted.
    var drafts: [DraftToken] = []
    var drafting = SampleDrafting()
    private var output: OutputText
    private var constraint: (any TokenConstraintState)?
    private var mask: TokenMask?
    private let room: Int
    private var generated = 0

    /// - Parameter room: tokens that fit the context after the prompt.
    init(job: Job, index: Int, sequence: ScheduledSequence, model: LanguageModel, room: Int) throws(EngineError) {
        self.job = job
        self.index = index
        self.sequence = sequence
        let request = job.request
        var parameters = request.sampling
        parameters.seed &+= UInt64(index)
        do { sampler = try Sampler(parameters, prompt: request.prompt) } catch { throw EngineError.sampling(error) }
        output = OutputText(model: model, stop: parameters.stop, skipSpecialTokens: request.skipSpecialTokens)
        constraint = request.constraint?.makeState()
        self.room = min(parameters.maxTokens, room)
        statistics.promptTokens = request.prompt.count
        mask = constraint?.allowedMask()
    }

    /// Whether its text can be drawn at all: without room it ends with its prompt.
    var hasRoom: Bool { generated < room }

    /// Tokens that may still be generated.
    var left: Int { room - generated }

    /// Draws the next token from the first row, and goes on with the next row as long as what was drawn is the draft.
    func draw(rows: LogitRows, drafts: ArraySlice<DraftToken>, model: LanguageModel) {
        outcome = Outcome()
        for row in 0..<rows.count {
            let draft = row < drafts.count ? drafts[drafts.startIndex + row] : nil
            do { try drawOne(rows[row], draft, model) } catch {
                outcome.error = error
                return
            }
            guard outcome.ending == nil, let draft, outcome.tokens.last?.token == draft.token else { return }
        }
    }

    /// Whether its tokens are simply the likeliest, and nothing else of the logits is wanted.
    var takesLikeliest: Bool { mask == nil && sampler.takesLikeliest }

    /// Takes the likeliest token, which somebody else has found.
    func take(_ token: Int32, model: LanguageModel) {
        outcome = Outcome()
        sampler.record(token)
        accept(SampledToken(token: token), model)
    }

    /// Text that was held back, at the end.
    func finishText() -> String { output.finish() ?? "" }

    private func drawOne(
        _ logits: UnsafeMutableBufferPointer<Float>, _ draft: DraftToken?, _ model: LanguageModel
    ) throws(EngineError) {
        if let mask, mask.count == 0 { throw EngineError.constraintDeadEnd(sample: index, position: generated) }
        let drawn: SampledToken
        do { drawn = try sampler.next(logits, allowed: mask, draft: draft) } catch {
            throw EngineError.notFinite(sample: index, position: generated)
        }
        accept(drawn, model)
    }

    private func accept(_ drawn: SampledToken, _ model: LanguageModel) {
        outcome.tokens.append(drawn)
        generated += 1
        if !sampler.parameters.ignoreEndOfSequence && model.endsSequence(drawn.token) {
            outcome.ending = .stop
            return
        }
        let (text, stopped) = output.push(drawn.token)
        outcome.text += text
        if stopped {
            outcome.ending = .stop
        } else if generated >= room {
            outcome.ending = .length
        } else if constraint != nil {
            _ = constraint?.accept(drawn.token)
            mask = constraint?.allowedMask()
            if mustEnd(model) { outcome.ending = .stop }
        }
    }

    /// Whether the constraint allows nothing but the end.
    private func mustEnd(_ model: LanguageModel) -> Bool {
        guard let constraint, let mask, constraint.isComplete, !sampler.parameters.ignoreEndOfSequence else {
            return false
        }
        return mask.count == model.endTokens.count { mask.contains($0) }
    }
}

/// What speculation knows about a sample.
struct SampleDrafting {
    var index = NGramIndex()
    /// One for each size of context of ``NGramIndex``.
    var lookups = [AcceptanceEstimate(prior: 0.7), AcceptanceEstimate(prior: 0.4)]
    var model = AcceptanceEstimate(prior: 0.7)
    /// Which lookup the drafts of this step come from; nil for the draft model.
    var lookup: Int?

    mutating func observe(drafted: Int, accepted: Int) {
        if let lookup {
            lookups[lookup].observe(drafted: drafted, accepted: accepted)
        } else {
            model.observe(drafted: drafted, accepted: accepted)
        }
    }
}

/// Rows of logits, to be changed in place by whoever draws from them.
///
/// Unchecked Sendable: each row belongs to one drawer.
struct LogitRows: @unchecked Sendable {
    let base: UnsafeMutablePointer<Float>
    let width: Int
    let count: Int

    subscript(row: Int) -> UnsafeMutableBufferPointer<Float> {
        UnsafeMutableBufferPointer(start: base + row * width, count: width)
    }

    func rows(from first: Int, count: Int) -> LogitRows {
        precondition(first >= 0 && first + count <= self.count)
        return LogitRows(base: base + first * width, width: width, count: count)
    }
}
