/// Counts of observations by size, as Prometheus has them.
public struct Histogram: Sendable, Equatable {
    /// Upper bounds of the buckets, inclusive and ascending; one more bucket holds what is larger.
    public let bounds: [Double]
    /// Observations in each bucket, not cumulative; one more than bounds.
    public private(set) var counts: [Int]
    /// Sum of all observations.
    public private(set) var sum = 0.0

    /// An empty histogram.
    public init(bounds: [Double]) {
        self.bounds = bounds
        counts = Array(repeating: 0, count: bounds.count + 1)
    }

    /// Observations in all.
    public var count: Int { counts.reduce(0, +) }

    /// Adds an observation, `weight` times.
    public mutating func record(_ value: Double, weight: Int = 1) {
        counts[bounds.firstIndex { value <= $0 } ?? bounds.count] += weight
        sum += value * Double(weight)
    }
}

/// The buckets of vLLM's metrics, so that dashboards made for it keep their meaning.
extension Histogram {
    static let timeToFirstToken = Histogram(bounds: [
        0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640,
        2560,
    ])
    static let tokenLatency = Histogram(bounds: [
        0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
    ])
    static let requestLatency = Histogram(bounds: [
        0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680,
    ])
    static let stepTokens = Histogram(bounds: [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384])
    static let samples = Histogram(bounds: [1, 2, 5, 10, 20])

    /// 1, 2, 5, 10, 20, 50, ... up to `limit`.
    static func lengths(upTo limit: Int) -> Histogram {
        var bounds: [Double] = []
        var decade = 1
        while decade <= limit {
            for factor in [1, 2, 5] where factor * decade <= limit { bounds.append(Double(factor * decade)) }
            decade *= 10
        }
        return Histogram(bounds: bounds)
    }
}
