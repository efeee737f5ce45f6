/// What two neighbouring symbols become: the merges of a BPE model by pair.
struct MergeTable: Sendable {
    /// No merge; larger than any rank and id.
    static let none = UInt64.max

    private struct Entry: BitwiseCopyable {
        var pair: UInt64
        /// Rank in the upper half, id of the merged symbol in the lower: the smaller value merges first.
        var merge: UInt64
    }

    private let entries: FixedBuffer<Entry>
    private let shift: UInt64
    /// The number of pairs.
    private(set) var count = 0

    /// An empty table for at most `capacity` pairs.
    init(capacity: Int) {
        var bits: UInt64 = 4
        while 1 << bits < capacity * 2 { bits += 1 }
        entries = FixedBuffer(repeating: Entry(pair: .max, merge: Self.none), count: 1 << bits)
        shift = 64 - bits
    }

    @inline(__always)
    private static func key(_ left: Int32, _ right: Int32) -> UInt64 {
        UInt64(UInt32(bitPattern: left)) << 32 | UInt64(UInt32(bitPattern: right))
    }

    @inline(__always)
    private func slot(_ pair: UInt64) -> Int {
        let folded = (pair ^ pair >> 29) &* ByteHash.multiplier
        return Int(truncatingIfNeeded: folded >> shift)
    }

    /// Sets what a pair becomes; of a pair that comes twice the last holds, as in `tokenizers`.
    mutating func insert(left: Int32, right: Int32, rank: Int, merged: Int32) {
        let pair = Self.key(left, right)
        var slot = slot(pair)
        while entries[slot].pair != .max, entries[slot].pair != pair { slot = (slot + 1) & (entries.count - 1) }
        if entries[slot].pair == .max { count += 1 }
        entries[slot] = Entry(pair: pair, merge: UInt64(UInt32(rank)) << 32 | UInt64(UInt32(bitPattern: merged)))
    }

    /// Rank and id of the merge of a pair, or `none`. Negative ids, which stand for nothing, never merge.
    @inline(__always)
    func merge(_ left: Int32, _ right: Int32) -> UInt64 {
        let pair = Self.key(left, right)
        var slot = slot(pair)
        while true {
            let entry = entries[slot]
            if entry.pair == pair || entry.pair == .max { return entry.merge }
            slot = (slot + 1) & (entries.count - 1)
        }
    }

    /// The id of the merged symbol.
    @inline(__always)
    static func id(_ merge: UInt64) -> Int32 { Int32(truncatingIfNeeded: merge) }
}
