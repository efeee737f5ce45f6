/// One inequality checked on many random instances.
public struct Inequality: Sendable {
    /// What is checked, in words with its source.
    public let name: String
    /// Which of the two sides is bounded: `measured >= bound` or `measured <= bound`.
    public let direction: Direction
    /// The instances, in the order in which they were drawn.
    public internal(set) var samples: [Sample] = []

    /// On which side of the bound the measured number belongs.
    public enum Direction: String, Sendable {
        /// measured >= bound
        case atLeast
        /// measured <= bound
        case atMost
    }

    /// One instance.
    public struct Sample: Sendable {
        /// What the bound says.
        public let bound: Double
        /// What came out; for a time, the least it can be where the search ended before the event.
        public let measured: Double
        /// Whether the search ended before the event, so that `measured` is only a lower limit.
        public let isCensored: Bool
    }

    init(_ name: String, _ direction: Direction) {
        self.name = name
        self.direction = direction
    }

    /// Relative error that the integrator may add.
    static let slack = 1e-6

    /// Whether an instance keeps to the bound.
    public func holds(_ sample: Sample) -> Bool {
        switch direction {
        case .atLeast: sample.measured >= sample.bound * (1 - Self.slack) - 1e-12
        case .atMost: !sample.isCensored && sample.measured <= sample.bound * (1 + Self.slack) + 1e-12
        }
    }

    /// Instances that break the bound.
    public var violations: Int { samples.count { !holds($0) } }

    /// The ratio of measured to bound that comes nearest to breaking it.
    public var tightest: Double? {
        let ratios = samples.filter { $0.bound > 0 }.map { $0.measured / $0.bound }
        return direction == .atLeast ? ratios.min() : ratios.max()
    }

    /// The middle ratio of measured to bound.
    public var median: Double? {
        let ratios = samples.filter { $0.bound > 0 }.map { $0.measured / $0.bound }.sorted()
        return ratios.isEmpty ? nil : ratios[ratios.count / 2]
    }

    mutating func add(bound: Double, measured: Double, isCensored: Bool = false) {
        samples.append(Sample(bound: bound, measured: measured, isCensored: isCensored))
    }
}
