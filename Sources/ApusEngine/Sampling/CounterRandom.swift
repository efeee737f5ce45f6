/// Random numbers that are a function of a seed and a counter, so that a draw does not depend on what was drawn before it
/// (nor on the batch a request ran in). SplitMix64's finaliser over the mixed pair (Steele, Lea, Flood 2014).
struct CounterRandom {
    /// Independent numbers for one counter.
    enum Purpose: UInt64 {
        /// The token itself.
        case draw = 0
        /// What a draft model draws.
        case proposal = 1
        /// Whether that is accepted.
        case acceptance = 2
    }

    let seed: UInt64

    /// A uniform number in [0, 1) with 53 random bits.
    func uniform(_ counter: UInt64, for purpose: Purpose = .draw) -> Double {
        let place = counter | purpose.rawValue << 56
        let mixed = Self.mix(Self.mix(seed &+ 0x9E37_79B9_7F4A_7C15) ^ (place &* 0xD1B5_4A32_D192_ED03))
        return Double(mixed >> 11) * 0x1p-53
    }

    private static func mix(_ value: UInt64) -> UInt64 {
        var z = value &+ 0x9E37_79B9_7F4A_7C15
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}
