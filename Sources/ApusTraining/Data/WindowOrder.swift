/// A shuffle of 0 ..< count that is computed, not stored: the place of each element costs a few rounds of arithmetic,
/// whatever the count, so a run resumes anywhere without state.
///
/// A balanced Feistel network permutes the smallest power of four that holds the count; a value beyond the count is put
/// through again until it falls inside (cycle walking; Black and Rogaway, "Ciphers with Arbitrary Finite Domains",
/// 2002). On average fewer than four passes.
package struct WindowOrder: Sendable {
    /// Elements.
    package let count: Int
    private let halfBits: Int
    private let keys: [UInt64]

    /// - Parameters:
    ///   - count: elements, at least 1.
    ///   - seed: the same seed gives the same order.
    package init(count: Int, seed: UInt64) {
        precondition(count > 0)
        self.count = count
        let bits = Int.bitWidth - (count - 1).leadingZeroBitCount
        halfBits = max(1, (bits + 1) / 2)
        keys = (0..<6).map { Self.mix(seed &+ UInt64($0 + 1) &* 0x9E37_79B9_7F4A_7C15) }
    }

    /// The element at a place.
    package subscript(place: Int) -> Int {
        precondition((0..<count).contains(place))
        var value = UInt64(place)
        repeat { value = permuted(value) } while value >= UInt64(count)
        return Int(value)
    }

    private func permuted(_ value: UInt64) -> UInt64 {
        let mask = (UInt64(1) << UInt64(halfBits)) - 1
        var left = value >> UInt64(halfBits)
        var right = value & mask
        for key in keys { (left, right) = (right, left ^ (Self.mix(right ^ key) & mask)) }
        return left << UInt64(halfBits) | right
    }

    /// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
    package static func mix(_ value: UInt64) -> UInt64 {
        var z = value
        z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
        return z ^ z >> 31
    }
}
