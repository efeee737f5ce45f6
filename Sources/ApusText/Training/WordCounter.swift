/// Counts the distinct words of a corpus.
struct WordCounter: WordConsumer {
    private(set) var words = ByteStrings()
    private(set) var counts: [Int] = []
    private var hashes: [UInt64] = []
    private var slots = [Int32](repeating: -1, count: 1 << 12)

    mutating func consume(_ word: UnsafePointer<UInt8>, _ count: Int, readable: UnsafePointer<UInt8>) {
        let hash = ByteHash.hash(word, count)
        let text = UnsafeBufferPointer(start: word, count: count)
        var slot = Int(truncatingIfNeeded: hash) & (slots.count - 1)
        while slots[slot] >= 0 {
            let index = Int(slots[slot])
            if hashes[index] == hash, words.withBytes(at: index, { $0.elementsEqual(text) }) {
                counts[index] += 1
                return
            }
            slot = (slot + 1) & (slots.count - 1)
        }
        slots[slot] = Int32(counts.count)
        words.append(UnsafeRawBufferPointer(text))
        counts.append(1)
        hashes.append(hash)
        if counts.count * 2 > slots.count { grow() }
    }

    private mutating func grow() {
        slots = [Int32](repeating: -1, count: slots.count * 2)
        for (index, hash) in hashes.enumerated() {
            var slot = Int(truncatingIfNeeded: hash) & (slots.count - 1)
            while slots[slot] >= 0 { slot = (slot + 1) & (slots.count - 1) }
            slots[slot] = Int32(index)
        }
    }
}
