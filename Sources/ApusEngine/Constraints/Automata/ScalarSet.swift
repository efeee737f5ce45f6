/// A set of Unicode scalars as sorted, disjoint, non-adjacent ranges. Surrogates never belong to one.
struct ScalarSet: Hashable, Sendable {
    private(set) var ranges: [ClosedRange<UInt32>]

    static let all = ScalarSet([0...0xD7FF, 0xE000...0x10FFFF])
    static let digits = ScalarSet([0x30...0x39])

    init(_ ranges: [ClosedRange<UInt32>]) {
        var result: [ClosedRange<UInt32>] = []
        for range in ranges.sorted(by: { $0.lowerBound < $1.lowerBound }) {
            if let last = result.last, range.lowerBound <= last.upperBound &+ 1 {
                result[result.count - 1] = last.lowerBound...max(last.upperBound, range.upperBound)
            } else {
                result.append(range)
            }
        }
        self.ranges = result
    }

    init(_ scalar: UInt32) { ranges = [scalar...scalar] }

    /// The ASCII characters of a text.
    init(ascii text: StaticString) {
        var found: [ClosedRange<UInt32>] = []
        text.withUTF8Buffer { for byte in $0 { found.append(UInt32(byte)...UInt32(byte)) } }
        self.init(found)
    }

    var isEmpty: Bool { ranges.isEmpty }

    func union(_ other: ScalarSet) -> ScalarSet { ScalarSet(ranges + other.ranges) }

    func intersection(_ other: ScalarSet) -> ScalarSet {
        var result: [ClosedRange<UInt32>] = []
        for left in ranges {
            for right in other.ranges where left.overlaps(right) { result.append(left.clamped(to: right)) }
        }
        return ScalarSet(result)
    }

    var inverted: ScalarSet {
        var result: [ClosedRange<UInt32>] = []
        var next: UInt32 = 0
        for range in ranges {
            if range.lowerBound > next { result.append(next...(range.lowerBound - 1)) }
            next = range.upperBound + 1
        }
        if next <= 0x10FFFF { result.append(next...0x10FFFF) }
        return ScalarSet(result).intersection(.all)
    }
}
