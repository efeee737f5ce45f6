#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// A token with its log-probability under the model (raw logits, natural logarithm).
public struct TokenLogprob: Sendable, Equatable {
    /// The token.
    public let token: Int32
    /// Its log-probability.
    public let logprob: Double

    /// A token with its log-probability.
    public init(token: Int32, logprob: Double) {
        self.token = token
        self.logprob = logprob
    }
}

/// What one draw gave.
public struct SampledToken: Sendable, Equatable {
    /// The token drawn.
    public let token: Int32
    /// Its log-probability, where asked for.
    public let logprob: Double?
    /// The most likely tokens, most likely first, where asked for.
    public let alternatives: [TokenLogprob]

    /// A token, with its log-probability and alternatives where known.
    public init(token: Int32, logprob: Double? = nil, alternatives: [TokenLogprob] = []) {
        self.token = token
        self.logprob = logprob
        self.alternatives = alternatives
    }
}

/// A token that a draft model drew, with the distribution it came from; nil where it was the only choice.
struct DraftToken: Sendable {
    let token: Int32
    let distribution: Candidates?
}

/// Draws the tokens of one request.
///
/// Holds the request's token counts for the penalties. A draw costs a pass over the vocabulary for the maximum and one
/// for the exponentials; only the tokens that can be chosen are sorted.
public struct Sampler: Sendable {
    /// How to draw.
    public let parameters: SamplingParameters
    private let random: CounterRandom
    private var generated: [Int32: Int] = [:]
    private var seen: Set<Int32> = []
    private var drawn = 0

    /// A sampler for one request whose prompt is `prompt`.
    public init(_ parameters: SamplingParameters, prompt: [Int32] = []) throws(SamplingError) {
        try parameters.validate()
        self.parameters = parameters
        random = CounterRandom(seed: parameters.seed)
        if parameters.repetitionPenalty != 1 { seen = Set(prompt) }
    }

    /// Draws the next token. The logits are changed in place where penalties or a mask apply.
    /// - Parameters:
    ///   - logits: one number per token of the vocabulary.
    ///   - allowed: the tokens that may be drawn, at least one; nil allows all.
    /// - Throws: ``SamplingError/notFinite(position:)``.
    public mutating func next(
        _ logits: UnsafeMutableBufferPointer<Float>, allowed: TokenMask? = nil
    ) throws(SamplingError) -> SampledToken {
        try next(logits, allowed: allowed, draft: nil)
    }

    /// - Parameter draft: what a draft model drew for this place; accepted with the probability that leaves the distribution
    ///   of the result as it is without (Leviathan et al. 2023, algorithm 1).
    mutating func next(
        _ logits: UnsafeMutableBufferPointer<Float>, allowed: TokenMask?, draft: DraftToken?
    ) throws(SamplingError) -> SampledToken {
        let raw = try logprobBase(UnsafeBufferPointer(logits))
        let alternatives = raw.map { topAlternatives(UnsafeBufferPointer(logits), logSum: $0) } ?? []
        let unpenalised: [Int32: Float] = applyPenalties(logits)
        allowed?.apply(to: logits)
        let token = try choose(UnsafeBufferPointer(logits), draft)
        let logit = unpenalised[token] ?? logits[Int(token)]
        record(token)
        return SampledToken(token: token, logprob: raw.map { Double(logit) - $0 }, alternatives: alternatives)
    }

    /// Counts a token that was not drawn here (forced or restored) as generated.
    public mutating func record(_ token: Int32) {
        drawn += 1
        if parameters.repetitionPenalty != 1 { seen.insert(token) }
        if parameters.presencePenalty != 0 || parameters.frequencyPenalty != 0 { generated[token, default: 0] += 1 }
    }

    /// The logarithm of the sum of exponentials, when log-probabilities are asked for.
    private func logprobBase(_ logits: UnsafeBufferPointer<Float>) throws(SamplingError) -> Double? {
        guard parameters.logprobs != nil else { return nil }
        return Exponentials.logSum(logits, largest: try maximum(logits).value)
    }

    private func topAlternatives(_ logits: UnsafeBufferPointer<Float>, logSum: Double) -> [TokenLogprob] {
        guard let count = parameters.logprobs, count > 0 else { return [] }
        return largest(logits, count: count).map { TokenLogprob(token: $0, logprob: Double(logits[Int($0)]) - logSum) }
    }

    /// Applies the penalties and returns the logits they replaced.
    private func applyPenalties(_ logits: UnsafeMutableBufferPointer<Float>) -> [Int32: Float] {
        var replaced: [Int32: Float] = [:]
        func change(_ token: Int32, _ update: (Float) -> Float) {
            guard token >= 0, Int(token) < logits.count else { return }
            let old = logits[Int(token)]
            if replaced[token] == nil { replaced[token] = old }
            logits[Int(token)] = update(old)
        }
        let repetition = Float(parameters.repetitionPenalty)
        for token in seen { change(token) { $0 > 0 ? $0 / repetition : $0 * repetition } }
        for (token, count) in generated {
            let penalty = Float(parameters.presencePenalty + parameters.frequencyPenalty * Double(count))
            change(token) { $0 - penalty }
        }
        return replaced
    }

    /// Draws as a draft model: the token, and the distribution it came from where it is not simply the largest.
    mutating func propose(_ logits: UnsafeMutableBufferPointer<Float>) throws(SamplingError) -> DraftToken {
        _ = applyPenalties(logits)
        let best = try maximum(UnsafeBufferPointer(logits))
        var draft = DraftToken(token: best.token, distribution: nil)
        if !isGreedy {
            let candidates = Candidates(UnsafeBufferPointer(logits), largest: best.value, parameters)
            let token = candidates.pick(random.uniform(UInt64(drawn), for: .proposal))
            draft = DraftToken(token: token, distribution: candidates)
        }
        record(draft.token)
        return draft
    }

    /// Whether every draw is the likeliest token, without penalties, and nobody asks for log-probabilities.
    var takesLikeliest: Bool {
        isGreedy && parameters.logprobs == nil && parameters.repetitionPenalty == 1 && parameters.presencePenalty == 0
            && parameters.frequencyPenalty == 0
    }

    private var isGreedy: Bool { parameters.temperature == 0 || parameters.topK == 1 }

    private func choose(_ logits: UnsafeBufferPointer<Float>, _ draft: DraftToken?) throws(SamplingError) -> Int32 {
        let best = try maximum(logits)
        if isGreedy { return best.token }
        let candidates = Candidates(logits, largest: best.value, parameters)
        let counter = UInt64(drawn)
        guard let draft, let proposed = draft.distribution else { return candidates.pick(random.uniform(counter)) }
        let accepted = random.uniform(counter, for: .acceptance) * proposed.probability(of: draft.token)
        if accepted < candidates.probability(of: draft.token) { return draft.token }
        return (candidates.exceeding(proposed) ?? candidates).pick(random.uniform(counter))
    }

    /// The largest logit and the first token that has it.
    private func maximum(_ logits: UnsafeBufferPointer<Float>) throws(SamplingError) -> (token: Int32, value: Float) {
        guard let best = LogitScan.largest(logits) else { throw SamplingError.notFinite(position: drawn) }
        return best
    }

    /// The `count` tokens with the largest logits, largest first, ties by token.
    private func largest(_ logits: UnsafeBufferPointer<Float>, count: Int) -> [Int32] {
        Candidates.largest(logits, count: min(count, logits.count))
    }
}
