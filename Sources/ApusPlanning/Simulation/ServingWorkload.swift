import ApusServeBenchmark

/// The requests of a simulation: how long they are, and when they come.
public struct ServingWorkload: Sendable {
    /// Tokens of the prompt and of the output of each request, in the order in which they come.
    public var lengths: [(prompt: Int, output: Int)]
    /// Seconds from the start at which each is due.
    public var due: [Double]
    /// At most this many at once; nil for no limit.
    public var concurrency: Int?

    /// The requests that `apus bench serve` sends for the same workload, arrivals and seed.
    /// - Throws: ``ServeBenchmarkError``.
    public init(_ workload: Workload, count: Int, arrivals: Arrivals, seed: UInt64 = 0) throws {
        let lengths = try workload.lengths(count: count, seed: seed)
        guard let lengths else {
            throw ServeBenchmarkError.parameter(name: "workload", expected: "random lengths", found: "a file")
        }
        try self.init(lengths, arrivals: arrivals, seed: seed)
    }

    /// Requests whose lengths are uniform in ranges.
    /// - Throws: ``ServeBenchmarkError``.
    public init(
        prompt: ClosedRange<Int>, output: ClosedRange<Int>, count: Int, arrivals: Arrivals, seed: UInt64 = 0
    ) throws {
        var random = BenchmarkRandom(seed: seed)
        func draw(_ range: ClosedRange<Int>) -> Int {
            range.count == 1 ? range.lowerBound : range.lowerBound + Int(random.next() % UInt64(range.count))
        }
        try self.init((0..<count).map { _ in (draw(prompt), draw(output)) }, arrivals: arrivals, seed: seed)
    }

    private init(_ lengths: [(prompt: Int, output: Int)], arrivals: Arrivals, seed: UInt64) throws {
        self.lengths = lengths
        due = try arrivals.times(lengths.count, seed: seed)
        concurrency = arrivals.concurrency
    }

    /// The requests with these places among all; `concurrency` of them at once.
    func part(_ places: [Int], concurrency: Int?) -> ServingWorkload {
        var part = self
        part.lengths = places.map { lengths[$0] }
        part.due = places.map { due[$0] }
        part.concurrency = concurrency
        return part
    }

    /// Tokens of the longest request.
    public var longest: Int { lengths.map { $0.prompt + $0.output }.max() ?? 0 }
}
