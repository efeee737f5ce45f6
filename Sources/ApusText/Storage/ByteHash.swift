/// Hashes of byte strings, seeded once a process so that a file cannot be made to collide.
enum ByteHash {
    private static let seed = UInt64.random(in: .min ... .max) | 1
    static let multiplier: UInt64 = 0x9E37_79B9_7F4A_7C15

    @inline(__always)
    static func mix(_ left: UInt64, _ right: UInt64) -> UInt64 {
        let product = left.multipliedFullWidth(by: right)
        return product.high ^ product.low
    }

    /// The hash of the `count` bytes at `start`.
    static func hash(_ start: UnsafePointer<UInt8>, _ count: Int) -> UInt64 {
        var state = seed ^ UInt64(truncatingIfNeeded: count)
        let raw = UnsafeRawPointer(start)
        var offset = 0
        while offset + 8 <= count {
            state = mix(state ^ raw.loadUnaligned(fromByteOffset: offset, as: UInt64.self), multiplier)
            offset += 8
        }
        var tail: UInt64 = 0
        while offset < count {
            tail = tail << 8 | UInt64(start[offset])
            offset += 1
        }
        return mix(state ^ tail, multiplier)
    }
}
