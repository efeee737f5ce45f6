/// How one request went. Times in seconds of the monotonic clock.
struct RequestRecord: Sendable {
    /// When it was handed to the connection.
    var start = 0.0
    /// When the first text came.
    var first: Double?
    /// When the last text came.
    var last = 0.0
    /// When the response was complete.
    var end = 0.0
    /// Times between texts.
    var gaps: [Double] = []
    /// Events with text.
    var pieces = 0
    var promptTokens: Int?
    /// Tokens that the server counted.
    var countedTokens: Int?
    /// Why it failed; nil where it did not.
    var failure: String?

    /// Tokens generated: as the server counted them, otherwise one an event.
    var outputTokens: Int { countedTokens ?? pieces }

    /// Seconds from the request to the first text.
    var timeToFirstToken: Double? { first.map { $0 - start } }

    /// Seconds from the request to the last text.
    var latency: Double { last - start }

    /// Seconds a token after the first; nil with fewer than two.
    var timePerOutputToken: Double? {
        guard let first, outputTokens > 1 else { return nil }
        return (last - first) / Double(outputTokens - 1)
    }

    mutating func text(at now: Double) {
        if first == nil { first = now } else { gaps.append(now - last) }
        last = now
        pieces += 1
    }
}
