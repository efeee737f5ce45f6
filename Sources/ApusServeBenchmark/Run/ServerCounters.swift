/// Counters that a server shows at `/metrics` in Prometheus's text form, whatever their prefix (`vllm:`, `apus:`).
struct ServerCounters: Sendable {
    private var values: [String: Double] = [:]

    init(_ text: String) {
        for line in text.split(separator: "\n") where !line.hasPrefix("#") {
            guard let space = line.lastIndex(of: " "), let value = Double(line[line.index(after: space)...]) else {
                continue
            }
            let name = line[..<(line.firstIndex(of: "{") ?? space)]
            let bare = name.split(separator: ":").last ?? name
            values[String(bare), default: 0] += value
        }
    }

    /// What a counter has grown by since an earlier look; nil where either lacks it.
    func growth(of name: String, since earlier: ServerCounters) -> Double? {
        guard let now = values[name], let before = earlier.values[name] else { return nil }
        return now - before
    }
}

/// What speculative decoding gave during a measurement, by the server's own count.
public struct SpeculationFigures: Sendable, Equatable {
    /// Times that tokens were proposed.
    public let drafts: Double
    /// Tokens proposed.
    public let draftTokens: Double
    /// Tokens accepted.
    public let acceptedTokens: Double

    init?(_ now: ServerCounters, since earlier: ServerCounters) {
        guard let drafts = now.growth(of: "spec_decode_num_drafts_total", since: earlier), drafts > 0,
            let tokens = now.growth(of: "spec_decode_num_draft_tokens_total", since: earlier),
            let accepted = now.growth(of: "spec_decode_num_accepted_tokens_total", since: earlier)
        else { return nil }
        self.drafts = drafts
        draftTokens = tokens
        acceptedTokens = accepted
    }

    /// The share of proposed tokens that were accepted.
    public var acceptanceRate: Double { draftTokens > 0 ? acceptedTokens / draftTokens : 0 }

    /// Tokens a step, the one that the model gives itself included.
    public var acceptanceLength: Double { 1 + acceptedTokens / drafts }
}
