import ApusModels
import ApusTensor

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Perplexity of a text by llama-perplexity's protocol.
public struct Perplexity: Sendable {
    /// exp of the mean negative log-likelihood of the scored tokens.
    public let perplexity: Double
    /// Standard error of the perplexity (delta method over the tokens' spread).
    public let standardError: Double
    /// Tokens scored.
    public let scored: Int
    /// Windows run.
    public let windows: Int

    /// One JSON object.
    public var json: String {
        "{\"perplexity\":\(perplexity),\"standardError\":\(standardError),\"scored\":\(scored),\"windows\":\(windows)}"
    }

    /// Scores the second half of each window of `window` tokens, every window run alone from an empty cache.
    /// - Parameters:
    ///   - chunks: windows at most; nil scores all that are whole.
    ///   - progress: called with the share done.
    /// - Throws: ``PerplexityError`` when the text is shorter than two windows, as llama-perplexity asks.
    public static func measure(
        _ model: LanguageModel, tokens: [Int32], window: Int, chunks: Int? = nil, cacheType: DType? = nil,
        progress: (Double) -> Void = { _ in }
    ) throws -> Perplexity {
        guard tokens.count >= 2 * window else {
            throw PerplexityError.textTooShort(tokens: tokens.count, needed: 2 * window)
        }
        let decoder = model.decoder
        let cache = try decoder.makeCache(tokens: window, type: cacheType)
        let begin = model.tokenizer.encode("", addSpecialTokens: true).first
        let windows = min(tokens.count / window, chunks ?? Int.max)
        let first = window / 2
        var sum = 0.0
        var squares = 0.0
        for index in 0..<windows {
            var part = Array(tokens[(index * window)..<((index + 1) * window)])
            if let begin { part[0] = begin }
            let sequence = cache.makeSequence()
            let head = DecoderInput(tokens: Array(part[..<first]), sequence: sequence, logits: .none)
            _ = try decoder.forward([head], cache: cache)
            let tail = DecoderInput(tokens: Array(part[first..<(window - 1)]), sequence: sequence, logits: .all)
            let logits = try decoder.forward([tail], cache: cache)
            for logprob in decoder.backend.logProbabilities(logits, of: Array(part[(first + 1)...])) {
                guard logprob.isFinite else { throw PerplexityError.notFinite(window: index) }
                sum -= Double(logprob)
                squares += Double(logprob) * Double(logprob)
            }
            progress(Double(index + 1) / Double(windows))
        }
        let count = windows * (window - 1 - first)
        let mean = sum / Double(count)
        let variance = max(squares / Double(count) - mean * mean, 0)
        return Perplexity(
            perplexity: exp(mean), standardError: exp(mean) * (variance / Double(max(count - 1, 1))).squareRoot(),
            scored: count, windows: windows)
    }
}

/// Why a text cannot be scored.
public enum PerplexityError: Error, Equatable, CustomStringConvertible {
    /// Fewer than two windows of tokens.
    case textTooShort(tokens: Int, needed: Int)
    /// The model gave a NaN or an infinite log-probability.
    case notFinite(window: Int)

    /// One sentence for people.
    public var description: String {
        switch self {
        case .textTooShort(let tokens, let needed):
            "the text has \(tokens) tokens; at least \(needed) (two windows) are expected"
        case .notFinite(let window): "the model's log-probabilities are not finite in window \(window)"
        }
    }
}
