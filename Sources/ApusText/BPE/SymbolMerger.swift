/// Applies merges to the symbols of one word: always the merge of lowest rank, of equal ones the leftmost.
///
/// Short words are scanned, which needs no bookkeeping: O(n^2) steps on a few cache lines. Long ones go through a heap
/// over a linked list: O(n log n).
final class SymbolMerger {
    private static let scanLimit = 40

    /// The symbols of the word; after `merge` its tokens.
    let symbols = GrowableBuffer<Int32>(capacity: 256)
    // The merge of each symbol with its right neighbour.
    private let ranks = GrowableBuffer<UInt32>(capacity: 256)
    private let merged = GrowableBuffer<Int32>(capacity: 256)
    // For long words: neighbours, -1 at the ends, and the heap of rank and position.
    private let previous = GrowableBuffer<Int32>(capacity: 256)
    private let next = GrowableBuffer<Int32>(capacity: 256)
    private let heap = GrowableBuffer<UInt64>(capacity: 256)

    /// Merges `symbols` in place.
    func merge(_ table: MergeTable) {
        let count = symbols.count
        guard count > 1 else { return }
        ranks.reserve(count)
        merged.reserve(count)
        ranks.base[count - 1] = .max
        merged.base[count - 1] = -1
        for index in 0..<count - 1 { setMerge(index, table.merge(symbols.base[index], symbols.base[index + 1])) }
        if count <= Self.scanLimit { mergeByScan(table, count) } else { mergeByHeap(table, count) }
    }

    @inline(__always)
    private func setMerge(_ index: Int, _ merge: UInt64) {
        ranks.base[index] = UInt32(truncatingIfNeeded: merge >> 32)
        merged.base[index] = MergeTable.id(merge)
    }

    private func mergeByScan(_ table: MergeTable, _ total: Int) {
        let symbols = symbols.base
        let ranks = ranks.base
        let merged = merged.base
        var count = total
        while count > 1 {
            var best = UInt32.max
            var position = 0
            for index in 0..<count - 1 where ranks[index] < best {
                best = ranks[index]
                position = index
            }
            if best == .max { break }
            symbols[position] = merged[position]
            count -= 1
            for index in position + 1..<Swift.max(count, position + 1) {
                symbols[index] = symbols[index + 1]
                ranks[index] = ranks[index + 1]
                merged[index] = merged[index + 1]
            }
            if position > 0 { setMerge(position - 1, table.merge(symbols[position - 1], symbols[position])) }
            if position < count - 1 { setMerge(position, table.merge(symbols[position], symbols[position + 1])) }
        }
        self.symbols.setCount(count)
    }

    private func mergeByHeap(_ table: MergeTable, _ count: Int) {
        previous.reserve(count)
        next.reserve(count)
        heap.removeAll()
        let symbols = symbols.base
        let ranks = ranks.base
        let merged = merged.base
        let previous = previous.base
        let next = next.base
        for index in 0..<count {
            previous[index] = Int32(index) - 1
            next[index] = index + 1 < count ? Int32(index) + 1 : -1
        }
        for index in 0..<count - 1 where ranks[index] != .max { push(UInt64(ranks[index]) << 32 | UInt64(index)) }
        while let top = pop() {
            let position = Int(top & 0xFFFF_FFFF)
            // The pair may have been changed by a merge of its left or right symbol since it was pushed.
            guard ranks[position] == UInt32(top >> 32) else { continue }
            symbols[position] = merged[position]
            let removed = Int(next[position])
            ranks[removed] = .max
            symbols[removed] = Self.dead
            next[position] = next[removed]
            if next[removed] >= 0 { previous[Int(next[removed])] = Int32(position) }
            if previous[position] >= 0 { refresh(Int(previous[position]), position, table) }
            if next[position] >= 0 { refresh(position, Int(next[position]), table) } else { ranks[position] = .max }
        }
        var kept = 0
        var index = 0
        while index >= 0 {
            symbols[kept] = symbols[index]
            kept += 1
            index = Int(next[index])
        }
        self.symbols.setCount(kept)
    }

    private static let dead = Int32.min

    @inline(__always)
    private func refresh(_ left: Int, _ right: Int, _ table: MergeTable) {
        setMerge(left, table.merge(symbols.base[left], symbols.base[right]))
        let rank = ranks.base[left]
        if rank != .max { push(UInt64(rank) << 32 | UInt64(left)) }
    }

    private func push(_ key: UInt64) {
        heap.append(key)
        let base = heap.base
        var child = heap.count - 1
        while child > 0 {
            let parent = (child - 1) / 2
            guard base[parent] > key else { break }
            base[child] = base[parent]
            child = parent
        }
        base[child] = key
    }

    private func pop() -> UInt64? {
        guard heap.count > 0 else { return nil }
        let base = heap.base
        let result = base[0]
        let last = heap.removeLast()
        let count = heap.count
        guard count > 0 else { return result }
        var parent = 0
        while true {
            var child = 2 * parent + 1
            guard child < count else { break }
            if child + 1 < count, base[child + 1] < base[child] { child += 1 }
            guard base[child] < last else { break }
            base[parent] = base[child]
            parent = child
        }
        base[parent] = last
        return result
    }
}
