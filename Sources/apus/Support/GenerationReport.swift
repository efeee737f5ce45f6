import ApusEngine
import ApusText

/// The figures of a generation, for people and for programs.
struct GenerationReport {
    private let result: GenerationResult
    private let loadSeconds: Double

    init(_ result: GenerationResult, loadSeconds: Double) {
        self.result = result
        self.loadSeconds = loadSeconds
    }

    /// Two lines of text.
    var lines: String {
        let s = result.statistics
        return """

            prompt \(s.promptTokens) tokens, \(fixed(s.promptTokensPerSecond, 1)) tokens/s; \
            generation \(s.generatedTokens) tokens, \(fixed(s.generatedTokensPerSecond, 1)) tokens/s
            load \(fixed(loadSeconds, 3)) s; first token after \(fixed(s.secondsToFirstToken, 3)) s; \
            peak memory \(fixed(Double(peakMemory()) / 1e6, 0)) MB; ended by \(result.finishReason.rawValue)

            """
    }

    /// One JSON object.
    var json: String {
        let s = result.statistics
        var object = JSONObject()
        object["text"] = .string(result.text)
        object["tokens"] = .array(result.tokens.map { .integer(Int64($0.token)) })
        object["finishReason"] = .string(result.finishReason.rawValue)
        if result.tokens.contains(where: { $0.logprob != nil }) {
            object["logprobs"] = .array(
                result.tokens.map { token in
                    var entry = JSONObject()
                    entry["token"] = .integer(Int64(token.token))
                    entry["logprob"] = .double(token.logprob ?? 0)
                    entry["alternatives"] = .array(
                        token.alternatives.map { .array([.integer(Int64($0.token)), .double($0.logprob)]) })
                    return .object(entry)
                })
        }
        object["promptTokens"] = .integer(Int64(s.promptTokens))
        object["promptTokensPerSecond"] = .double(s.promptTokensPerSecond)
        object["generatedTokensPerSecond"] = .double(s.generatedTokensPerSecond)
        object["secondsToFirstToken"] = .double(s.secondsToFirstToken)
        object["loadSeconds"] = .double(loadSeconds)
        object["peakMemoryBytes"] = .integer(Int64(peakMemory()))
        return JSONValue.object(object).serialized()
    }
}

/// A number with a fixed number of decimals.
func fixed(_ value: Double, _ decimals: Int) -> String {
    guard value.isFinite else { return "\(value)" }
    var scale = 1.0
    for _ in 0..<decimals { scale *= 10 }
    let scaled = (abs(value) * scale).rounded()
    guard scaled < 1e15 else { return "\(value)" }
    let digits = String(Int64(scaled))
    let padded = String(repeating: "0", count: max(0, decimals + 1 - digits.count)) + digits
    let sign = value < 0 && scaled > 0 ? "-" : ""
    return decimals == 0 ? sign + padded : sign + padded.dropLast(decimals) + "." + padded.suffix(decimals)
}
