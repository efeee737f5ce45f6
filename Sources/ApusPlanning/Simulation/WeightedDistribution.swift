/// Numbers with how often each came.
public struct WeightedDistribution: Sendable, Equatable {
    /// A number and how often it came.
    public struct Entry: Sendable, Equatable {
        /// The number.
        public let value: Double
        /// How often it came, at least once.
        public let count: Int
    }

    /// The numbers, smallest first.
    public let entries: [Entry]
    /// How many numbers there are.
    public let count: Int

    /// A distribution of numbers in any order.
    public init(_ values: [(value: Double, count: Int)]) {
        var entries: [Entry] = []
        for (value, count) in values.sorted(by: { $0.value < $1.value }) {
            if let last = entries.last, last.value == value {
                entries[entries.count - 1] = Entry(value: value, count: last.count + count)
            } else {
                entries.append(Entry(value: value, count: count))
            }
        }
        self.entries = entries
        count = entries.reduce(0) { $0 + $1.count }
    }

    /// A distribution of numbers that came once each.
    public init(_ values: [Double]) { self.init(values.map { ($0, 1) }) }

    /// The arithmetic mean; 0 without numbers.
    public var mean: Double {
        count == 0 ? 0 : entries.reduce(0) { $0 + $1.value * Double($1.count) } / Double(count)
    }

    /// The number below which `share` of all lie, interpolated between neighbours as numpy does; 0 without numbers.
    public func percentile(_ share: Double) -> Double {
        guard count > 0 else { return 0 }
        let place = share * Double(count - 1)
        let lower = Int(place)
        var passed = 0
        for (index, entry) in entries.enumerated() {
            passed += entry.count
            guard passed > lower else { continue }
            if passed > lower + 1 || index + 1 == entries.count { return entry.value }
            return entry.value + (entries[index + 1].value - entry.value) * (place - Double(lower))
        }
        return entries[entries.count - 1].value
    }

    /// The median.
    public var median: Double { percentile(0.5) }
}
