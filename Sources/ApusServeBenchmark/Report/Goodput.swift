/// Limits that a request must keep to count as good, in milliseconds.
public struct GoodputLimits: Sendable, Equatable {
    /// Time to first token.
    public var ttft: Double?
    /// Time per output token after the first.
    public var tpot: Double?
    /// End-to-end latency.
    public var e2el: Double?

    /// Whether there is any limit.
    public var isEmpty: Bool { ttft == nil && tpot == nil && e2el == nil }

    /// Limits from words such as `ttft:200`, `tpot:50`, `e2el:2000`.
    /// - Throws: ``ServeBenchmarkError/parameter(name:expected:found:)``.
    public init(_ words: [String]) throws(ServeBenchmarkError) {
        for word in words {
            let parts = word.split(separator: ":")
            guard parts.count == 2, let limit = Double(parts[1]), limit >= 0 else { throw Self.error(word) }
            switch parts[0] {
            case "ttft": ttft = limit
            case "tpot": tpot = limit
            case "e2el": e2el = limit
            default: throw Self.error(word)
            }
        }
    }

    private static func error(_ word: String) -> ServeBenchmarkError {
        .parameter(name: "goodput", expected: "ttft:MS, tpot:MS or e2el:MS", found: "'\(word)'")
    }

    func isMet(by record: RequestRecord) -> Bool {
        func holds(_ limit: Double?, _ seconds: Double?) -> Bool { limit.map { (seconds ?? 0) * 1000 <= $0 } ?? true }
        return record.failure == nil && holds(ttft, record.timeToFirstToken) && holds(tpot, record.timePerOutputToken)
            && holds(e2el, record.latency)
    }
}
