#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// When requests are sent.
public struct Arrivals: Sendable, Equatable {
    /// Requests a second on average, at random times (a Poisson process); nil sends as fast as the concurrency allows.
    public var rate: Double?
    /// The rate of the last request where it is to grow or fall evenly from request to request.
    public var finalRate: Double?
    /// At most this many requests at once; nil sets no limit.
    public var concurrency: Int?

    /// All at once.
    public init(rate: Double? = nil, finalRate: Double? = nil, concurrency: Int? = nil) {
        self.rate = rate
        self.finalRate = finalRate
        self.concurrency = concurrency
    }

    /// Seconds from the start at which each request is due.
    /// - Throws: ``ServeBenchmarkError/parameter(name:expected:found:)``.
    package func times(_ count: Int, seed: UInt64) throws(ServeBenchmarkError) -> [Double] {
        for (name, value) in [("rate", rate), ("ramp", finalRate)] {
            if let value, !(value > 0 && value.isFinite) {
                throw .parameter(name: name, expected: "a number above 0", found: "\(value)")
            }
        }
        if let concurrency, concurrency < 1 {
            throw .parameter(name: "concurrency", expected: "an integer >= 1", found: "\(concurrency)")
        }
        guard let rate else { return [Double](repeating: 0, count: count) }
        var random = BenchmarkRandom(seed: seed ^ 0x5DEE_CE66)
        var now = 0.0
        return (0..<count).map { index in
            defer {
                let share = count > 1 ? Double(index) / Double(count - 1) : 0
                let current = rate + ((finalRate ?? rate) - rate) * share
                now += -log(random.uniform()) / current
            }
            return now
        }
    }
}
