import ApusAttention
import ApusModels
import ApusTensor

/// A smaller model that drafts for several sequences at once, over a cache of its own.
final class DraftModel {
    private struct Progress {
        let sequence: CacheSequence
        var tokens: [Int32] = []
    }

    private let decoder: Decoder
    private let cache: PagedCache
    private let stepTokens: Int
    private var progress: [ObjectIdentifier: Progress] = [:]
    /// Seconds that one more token of all drafts took, lately.
    private(set) var depthSeconds = 0.0

    init(_ model: LanguageModel, for target: DecoderConfiguration, pages: Int, pageSize: Int, stepTokens: Int) throws {
        decoder = model.decoder
        guard decoder.outputWidth == target.outputWidth else {
            throw EngineError.unsupported(
                "the draft model has \(decoder.outputWidth) tokens, the model \(target.outputWidth); expected the same")
        }
        self.stepTokens = stepTokens
        cache = try decoder.makeCache(pages: pages, pageSize: pageSize)
    }

    /// Forgets a sequence that has ended or lost its pages.
    func drop(_ sequence: ScheduledSequence) { progress[ObjectIdentifier(sequence)] = nil }

    /// Drafts `count` tokens for each sample, fewer where the draft model's cache is full or its logits are not finite.
    func draft(_ asks: [(sample: SampleRun, count: Int)]) -> [[DraftToken]] {
        var drafts = Array(repeating: [DraftToken](), count: asks.count)
        var samplers = asks.map(\.sample.sampler)
        var active = asks.indices.filter { asks[$0].count > 0 && catchUp(asks[$0].sample.sequence) }
        let clock = ContinuousClock()
        while !active.isEmpty {
            let start = clock.now
            let inputs = active.map { index in
                input(asks[index].sample.sequence, drafts: drafts[index].map(\.token))
            }
            guard let logits = try? decoder.forward(inputs, cache: cache) else {
                for index in active { drop(asks[index].sample.sequence) }
                break
            }
            logits.withMutableElements(of: Float.self) { elements in
                let rows = LogitRows(base: elements.baseAddress!, width: logits.shape[1], count: active.count)
                active = zip(active, 0...).compactMap { index, row in
                    guard let token = try? samplers[index].propose(rows[row]) else { return nil }
                    drafts[index].append(token)
                    return drafts[index].count < asks[index].count ? index : nil
                }
            }
            let seconds = (clock.now - start).inSeconds
            depthSeconds =
                depthSeconds == 0 ? seconds : depthSeconds + 0.15 * (min(seconds, 2 * depthSeconds) - depthSeconds)
        }
        return drafts
    }

    /// The tokens of a sequence and its drafts that the draft model has not seen.
    private func input(_ sequence: ScheduledSequence, drafts: [Int32]) -> DecoderInput {
        guard var state = progress[ObjectIdentifier(sequence)] else {
            preconditionFailure("drafting without catching up")
        }
        let new = Array((sequence.tokens + drafts)[state.tokens.count...])
        state.tokens += new
        progress[ObjectIdentifier(sequence)] = state
        return DecoderInput(tokens: new, sequence: state.sequence)
    }

    /// Forgets drafts that were not accepted and computes all but the last tokens that came since, in bounded steps.
    /// - Returns: whether the cache had room.
    private func catchUp(_ sequence: ScheduledSequence) -> Bool {
        var state = progress[ObjectIdentifier(sequence)] ?? Progress(sequence: cache.makeSequence())
        let limit = min(state.tokens.count, sequence.tokens.count - 1)
        let common = (0..<limit).first { state.tokens[$0] != sequence.tokens[$0] } ?? limit
        do {
            try cache.truncate(state.sequence, to: common)
            state.tokens.removeLast(state.tokens.count - common)
            while sequence.tokens.count - state.tokens.count > stepTokens {
                let piece = Array(sequence.tokens[state.tokens.count..<state.tokens.count + stepTokens])
                _ = try decoder.forward(
                    [DecoderInput(tokens: piece, sequence: state.sequence, logits: .none)], cache: cache)
                state.tokens += piece
            }
        } catch {
            drop(sequence)
            return false
        }
        progress[ObjectIdentifier(sequence)] = state
        return true
    }
}
