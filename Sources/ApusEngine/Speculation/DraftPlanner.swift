/// Decides how many tokens to draft, so that more tokens come per second.
///
/// Learns the time of a step by its rows while the engine decodes. Rows not tried yet count as cheap, and what has not been
/// seen for long becomes cheaper, so that they are tried.
struct DraftPlanner {
    /// A sequence that could be drafted for.
    struct Candidate {
        /// Probability that a draft is accepted, given those before it.
        let acceptance: Double
        /// Drafts at most.
        let limit: Int
    }

    /// A gain below this is not worth the uncertainty.
    private static let leastGain = 1.03
    /// Share of a row's time that another row is thought to cost before it has been measured.
    private static let unknownRowCost = 0.12
    private static let weight = 0.15
    private static let forgetting = 0.9995

    private var seconds: [Double]

    /// A planner for steps of at most `rows` rows.
    init(rows: Int) { seconds = Array(repeating: 0, count: rows + 1) }

    /// A step of `rows` rows, no prompt among them, took so long.
    mutating func observe(rows: Int, seconds time: Double) {
        guard rows < seconds.count else { return }
        for index in seconds.indices { seconds[index] *= Self.forgetting }
        let known = seconds[rows]
        // What held the machine up once is no cost of the rows.
        seconds[rows] = known == 0 ? time : known + Self.weight * (min(time, 2 * known) - known)
    }

    /// Seconds of a step, or nil when none has been measured.
    func time(rows: Int) -> Double? {
        if rows < seconds.count, seconds[rows] > 0 { return seconds[rows] }
        let below = (1..<min(rows, seconds.count)).last { seconds[$0] > 0 }
        let above = rows < seconds.count ? (rows..<seconds.count).first { seconds[$0] > 0 } : nil
        switch (below, above) {
        case (let low?, let high?):
            let share = Double(rows - low) / Double(high - low)
            return seconds[low] + share * (seconds[high] - seconds[low])
        case (let low?, nil): return seconds[low] * (1 + Self.unknownRowCost * Double(rows - low) / Double(low))
        case (nil, let high?): return seconds[high]
        case (nil, nil): return nil
        }
    }

    /// How many drafts each candidate gets in a step of `base` rows without drafts.
    /// - Parameter depthSeconds: what drafting costs per token of the longest draft.
    func counts(_ candidates: [Candidate], base: Int, depthSeconds: Double = 0) -> [Int] {
        var counts = Array(repeating: 0, count: candidates.count)
        guard !candidates.isEmpty, let plain = time(rows: base) else { return counts }
        var additions: [(gain: Double, candidate: Int, depth: Int)] = []
        for (index, candidate) in candidates.enumerated() {
            var gain = 1.0
            for depth in 1...max(candidate.limit, 1) where depth <= candidate.limit {
                gain *= candidate.acceptance
                additions.append((gain, index, depth))
            }
        }
        additions.sort { ($0.gain, $1.depth) > ($1.gain, $0.depth) }
        var best = (rate: Double(base) / plain * Self.leastGain, count: 0)
        var tokens = Double(base)
        var depth = 0
        for (index, addition) in additions.enumerated() {
            tokens += addition.gain
            depth = max(depth, addition.depth)
            guard let time = time(rows: base + index + 1) else { break }
            let rate = tokens / (time + Double(depth) * depthSeconds)
            if rate > best.rate { best = (rate, index + 1) }
        }
        for addition in additions.prefix(best.count) { counts[addition.candidate] += 1 }
        return counts
    }
}
