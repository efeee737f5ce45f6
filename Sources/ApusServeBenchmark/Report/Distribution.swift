/// Measured numbers of one kind, in milliseconds.
public struct Distribution: Sendable, Equatable {
    /// The numbers, smallest first.
    public let values: [Double]

    /// A distribution of seconds.
    init(seconds: [Double]) { values = seconds.map { $0 * 1000 }.sorted() }

    /// The arithmetic mean; 0 without numbers.
    public var mean: Double { values.isEmpty ? 0 : values.reduce(0, +) / Double(values.count) }

    /// The standard deviation of the numbers.
    public var deviation: Double {
        guard !values.isEmpty else { return 0 }
        let mean = self.mean
        return (values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(values.count)).squareRoot()
    }

    /// The number below which `share` of all lie, interpolated between neighbours as numpy does; 0 without numbers.
    public func percentile(_ share: Double) -> Double {
        guard let last = values.last else { return 0 }
        let place = share * Double(values.count - 1)
        let index = Int(place)
        guard index + 1 < values.count else { return last }
        return values[index] + (values[index + 1] - values[index]) * (place - Double(index))
    }
}
