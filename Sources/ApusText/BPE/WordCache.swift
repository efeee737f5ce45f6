/// Remembers what words became. Text repeats its words, so nearly all of them cost one probe here.
///
/// A word of up to 15 bytes is its own key; of a longer one the bytes are kept and compared. When the table is full
/// everything is forgotten, which bounds the memory.
final class WordCache {
    private struct Entry: BitwiseCopyable {
        /// The first eight bytes of a short word, the hash of a long one.
        var low: UInt64
        /// Short: the other bytes and the length in the top byte. Long: 0xFF, 16 bits of length, 40 of place.
        /// Zero where the entry is free: a word has at least one byte.
        var high: UInt64
        /// The only token, or where the tokens begin in `tokens`.
        var first: Int32
        var count: Int32
    }

    private static let inlineLimit = 15
    private static let longLimit = 255
    private static let initialSize = 1 << 12
    private static let sizeLimit = 1 << 17

    // Exclusivity is not checked at run time: one thread owns the cache and no method calls out.
    @exclusivity(unchecked) private var entries: FixedBuffer<Entry>
    @exclusivity(unchecked) private var used = 0
    private let tokens = GrowableBuffer<Int32>(capacity: 1 << 12)
    private let longWords = GrowableBuffer<UInt8>(capacity: 1 << 12)

    init() { entries = Self.emptyEntries(Self.initialSize) }

    private static func emptyEntries(_ count: Int) -> FixedBuffer<Entry> {
        FixedBuffer(repeating: Entry(low: 0, high: 0, first: 0, count: 0), count: count)
    }

    /// A word's key, and where it stands or would stand.
    struct Place {
        fileprivate var low: UInt64
        fileprivate var high: UInt64
        fileprivate var slot: Int
    }

    /// Appends the tokens of the word to `output` if it is known; else says where to remember it, or nil if it is too
    /// long for that. `readable` ends the memory that may be read beyond the word.
    @inline(__always)
    func lookUp(
        _ word: UnsafePointer<UInt8>, _ count: Int, readable: UnsafePointer<UInt8>, into output: GrowableBuffer<Int32>,
        isFound: inout Bool
    ) -> Place? {
        if count > Self.inlineLimit { return lookUpLong(word, count, into: output, isFound: &isFound) }
        var (low, high) = Self.load(word, count, readable: readable)
        high |= UInt64(truncatingIfNeeded: count) << 56
        let entries = entries
        let mask = entries.count - 1
        var slot = Self.slot(low, high) & mask
        while true {
            let entry = entries[slot]
            if entry.low == low, entry.high == high {
                emit(entry, into: output)
                isFound = true
                return nil
            }
            if entry.high == 0 { return Place(low: low, high: high, slot: slot) }
            slot = (slot + 1) & mask
        }
    }

    @inline(__always)
    private func emit(_ entry: Entry, into output: GrowableBuffer<Int32>) {
        if entry.count == 1 {
            output.append(entry.first)
        } else {
            output.append(tokens.base + Int(entry.first), Int(entry.count))
        }
    }

    private func lookUpLong(
        _ word: UnsafePointer<UInt8>, _ count: Int, into output: GrowableBuffer<Int32>, isFound: inout Bool
    ) -> Place? {
        guard count <= Self.longLimit else { return nil }
        let hash = ByteHash.hash(word, count)
        let mask = entries.count - 1
        var slot = Self.slot(hash, 0) & mask
        while entries[slot].high != 0 {
            let entry = entries[slot]
            if entry.low == hash, entry.high >> 40 == 0xFF0000 | UInt64(count) {
                let stored = longWords.base + Int(entry.high & 0xFF_FFFF_FFFF)
                if UnsafeBufferPointer(start: stored, count: count).elementsEqual(
                    UnsafeBufferPointer(start: word, count: count))
                {
                    emit(entry, into: output)
                    isFound = true
                    return nil
                }
            }
            slot = (slot + 1) & mask
        }
        return Place(low: hash, high: 0xFF << 56 | UInt64(count) << 40 | UInt64(longWords.count), slot: slot)
    }

    /// Remembers the tokens of the word just looked up.
    func remember(_ word: UnsafePointer<UInt8>, _ count: Int, _ result: UnsafeBufferPointer<Int32>, at place: Place) {
        if count > Self.inlineLimit { longWords.append(word, count) }
        var first = Int32(truncatingIfNeeded: tokens.count)
        if result.count == 1 {
            first = result[0]
        } else if let start = result.baseAddress {
            tokens.append(start, result.count)
        }
        entries[place.slot] = Entry(low: place.low, high: place.high, first: first, count: Int32(result.count))
        used += 1
        if used * 2 > entries.count { grow() }
    }

    private func grow() {
        let old = entries
        guard old.count < Self.sizeLimit else {
            entries = Self.emptyEntries(Self.initialSize)
            used = 0
            tokens.removeAll()
            longWords.removeAll()
            return
        }
        entries = Self.emptyEntries(old.count * 2)
        let mask = entries.count - 1
        for index in 0..<old.count where old[index].high != 0 {
            let entry = old[index]
            var slot = (entry.high >> 56 == 0xFF ? Self.slot(entry.low, 0) : Self.slot(entry.low, entry.high)) & mask
            while entries[slot].high != 0 { slot = (slot + 1) & mask }
            entries[slot] = entry
        }
    }

    @inline(__always)
    private static func slot(_ low: UInt64, _ high: UInt64) -> Int {
        let folded = (low ^ (high &* 0xC2B2_AE3D_27D4_EB4F)) &* ByteHash.multiplier
        return Int(truncatingIfNeeded: (folded ^ folded >> 32) & 0xFFFF_FFFF)
    }

    @inline(__always)
    private static func load(
        _ word: UnsafePointer<UInt8>, _ count: Int, readable: UnsafePointer<UInt8>
    ) -> (UInt64, UInt64) {
        let raw = UnsafeRawPointer(word)
        if word + 16 <= readable {
            let low = raw.loadUnaligned(as: UInt64.self)
            if count <= 8 { return (low & (UInt64.max >> UInt64(64 - 8 * count)), 0) }
            let high = raw.loadUnaligned(fromByteOffset: 8, as: UInt64.self)
            return (low, high & ((1 << UInt64(8 * (count - 8))) - 1))
        }
        var low: UInt64 = 0
        var high: UInt64 = 0
        for index in 0..<count {
            if index < 8 {
                low |= UInt64(word[index]) << UInt64(8 * index)
            } else {
                high |= UInt64(word[index]) << UInt64(8 * (index - 8))
            }
        }
        return (low, high)
    }
}
