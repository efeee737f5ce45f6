/// What a simulation gave, under the names of `apus bench serve`. Times in seconds.
public struct SimulationResult: Sendable, Equatable {
    /// The state after something began or ended.
    public struct Moment: Sendable, Equatable {
        /// Seconds from the start.
        public let time: Double
        /// Sequences that run.
        public let running: Int
        /// Sequences that wait.
        public let waiting: Int
    }

    /// Requests.
    public let requests: Int
    /// Seconds from the first request to the end of the last.
    public let duration: Double
    /// Tokens of prompts.
    public let inputTokens: Int
    /// Tokens of outputs.
    public let outputTokens: Int
    /// Time to first token.
    public let ttft: WeightedDistribution
    /// Time per output token after the first.
    public let tpot: WeightedDistribution
    /// Time between neighbouring tokens.
    public let itl: WeightedDistribution
    /// Time from the request to the last token.
    public let e2el: WeightedDistribution
    /// Steps.
    public let steps: Int
    /// The most sequences that ran at once.
    public let peakRunning: Int
    /// How often a sequence lost its pages.
    public let preemptions: Int
    /// The state over time.
    public let timeline: [Moment]

    /// Output tokens a second.
    public var outputThroughput: Double { duration > 0 ? Double(outputTokens) / duration : 0 }
    /// Requests a second.
    public var requestThroughput: Double { duration > 0 ? Double(requests) / duration : 0 }

    /// The four distributions with their names.
    public var distributions: [(key: String, title: String, unit: String, values: WeightedDistribution)] {
        [
            ("ttft", "Time to First Token", "TTFT", ttft),
            ("tpot", "Time per Output Token (excl. 1st token)", "TPOT", tpot),
            ("itl", "Inter-token Latency", "ITL", itl), ("e2el", "End-to-end Latency", "E2EL", e2el),
        ]
    }
}

extension SimulationResult {
    /// The results of replicas that ran beside each other, as one.
    static func joined(_ parts: [SimulationResult]) -> SimulationResult {
        func join(_ values: KeyPath<SimulationResult, WeightedDistribution>) -> WeightedDistribution {
            WeightedDistribution(parts.flatMap { $0[keyPath: values].entries.map { ($0.value, $0.count) } })
        }
        func sum(_ count: KeyPath<SimulationResult, Int>) -> Int { parts.reduce(0) { $0 + $1[keyPath: count] } }
        return SimulationResult(
            requests: sum(\.requests), duration: parts.map(\.duration).max() ?? 0, inputTokens: sum(\.inputTokens),
            outputTokens: sum(\.outputTokens), ttft: join(\.ttft), tpot: join(\.tpot), itl: join(\.itl),
            e2el: join(\.e2el), steps: sum(\.steps), peakRunning: sum(\.peakRunning), preemptions: sum(\.preemptions),
            timeline: merged(parts.map(\.timeline)))
    }

    private static func merged(_ timelines: [[Moment]]) -> [Moment] {
        var states = Array(repeating: (running: 0, waiting: 0), count: timelines.count)
        let events = timelines.enumerated().flatMap { part, moments in moments.map { (part, $0) } }
            .sorted { $0.1.time < $1.1.time }
        return events.map { part, moment in
            states[part] = (moment.running, moment.waiting)
            return Moment(
                time: moment.time, running: states.reduce(0) { $0 + $1.running },
                waiting: states.reduce(0) { $0 + $1.waiting })
        }
    }
}
