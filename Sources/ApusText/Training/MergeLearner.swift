/// Learns the merges of byte-level BPE from counted words: again and again the pair that occurs most often, of equally
/// frequent ones the pair with the smaller ids. The order of events is that of `BpeTrainer` in `tokenizers`, so the
/// result is the same.
struct MergeLearner {
    /// The tokens so far, by id.
    private(set) var tokens: [[UInt8]]
    /// The merges in order.
    private(set) var merges: [(left: Int32, right: Int32)] = []

    private var ids: [[UInt8]: Int32] = [:]
    // The words' symbols, one word after another; a word shrinks in place.
    private var symbols: [Int32] = []
    private var starts: [Int] = []
    private var lengths: [Int32] = []
    private let counts: [Int]
    private var pairCounts: [UInt64: Int] = [:]
    private var queue = Queue()
    /// Words in which pairs came up in the latest merge, to be queued.
    private var found: [UInt64: [Int32]] = [:]

    /// - Parameters:
    ///   - words: the words' symbols and how often each word occurs.
    ///   - tokens: the tokens that symbols stand for, by id.
    init(_ words: [(symbols: [Int32], count: Int)], tokens: [[UInt8]]) {
        self.tokens = tokens
        counts = words.map(\.count)
        for (id, token) in tokens.enumerated() { ids[token] = Int32(id) }
        for (index, word) in words.enumerated() {
            starts.append(symbols.count)
            lengths.append(Int32(word.symbols.count))
            symbols += word.symbols
            for place in word.symbols.indices.dropLast() {
                change(word.symbols[place], word.symbols[place + 1], by: word.count, in: Int32(index))
            }
        }
        enqueueFound()
    }

    private static func key(_ left: Int32, _ right: Int32) -> UInt64 {
        UInt64(UInt32(bitPattern: left)) << 32 | UInt64(UInt32(bitPattern: right))
    }

    private mutating func change(_ left: Int32, _ right: Int32, by count: Int, in word: Int32) {
        let pair = Self.key(left, right)
        pairCounts[pair, default: 0] += count
        guard count > 0 else { return }
        // Words come in order, so a word already noted is the last one noted.
        if found[pair]?.last != word { found[pair, default: []].append(word) }
    }

    private mutating func enqueueFound() {
        for (pair, words) in found {
            let count = pairCounts[pair]!
            if count > 0 { queue.push(Candidate(count: count, pair: pair, words: words)) }
        }
        found.removeAll(keepingCapacity: true)
    }

    /// Merges until there are `size` tokens or no pair occurs `minimumFrequency` times.
    mutating func learn(size: Int, minimumFrequency: Int) {
        while tokens.count < size, var candidate = queue.pop() {
            let count = pairCounts[candidate.pair]!
            if candidate.count != count {
                candidate.count = count
                queue.push(candidate)
                continue
            }
            guard count > 0, count >= minimumFrequency else { return }
            apply(candidate)
        }
    }

    private mutating func apply(_ candidate: Candidate) {
        let left = Int32(truncatingIfNeeded: candidate.pair >> 32)
        let right = Int32(truncatingIfNeeded: candidate.pair)
        let token = tokens[Int(left)] + tokens[Int(right)]
        let id: Int32
        if let known = ids[token] {
            id = known
        } else {
            id = Int32(tokens.count)
            tokens.append(token)
            ids[token] = id
        }
        merges.append((left, right))
        for word in candidate.words { merge(left, right, into: id, word: word) }
        enqueueFound()
    }

    private mutating func merge(_ left: Int32, _ right: Int32, into id: Int32, word: Int32) {
        let start = starts[Int(word)]
        let end = start + Int(lengths[Int(word)])
        let count = counts[Int(word)]
        var read = start
        var write = start
        while read < end {
            guard symbols[read] == left, read + 1 < end, symbols[read + 1] == right else {
                symbols[write] = symbols[read]
                read += 1
                write += 1
                continue
            }
            if write > start {
                change(symbols[write - 1], left, by: -count, in: word)
                change(symbols[write - 1], id, by: count, in: word)
            }
            if read + 2 < end {
                change(right, symbols[read + 2], by: -count, in: word)
                change(id, symbols[read + 2], by: count, in: word)
            }
            symbols[write] = id
            read += 2
            write += 1
        }
        lengths[Int(word)] = Int32(write - start)
    }

    // MARK: Candidates

    private struct Candidate {
        var count: Int
        var pair: UInt64
        var words: [Int32]

        func precedes(_ other: Candidate) -> Bool {
            count != other.count ? count > other.count : pair < other.pair
        }
    }

    /// A binary heap, the best candidate on top.
    private struct Queue {
        private var heap: [Candidate] = []

        mutating func push(_ candidate: Candidate) {
            heap.append(candidate)
            var child = heap.count - 1
            while child > 0, heap[child].precedes(heap[(child - 1) / 2]) {
                heap.swapAt(child, (child - 1) / 2)
                child = (child - 1) / 2
            }
        }

        mutating func pop() -> Candidate? {
            guard !heap.isEmpty else { return nil }
            heap.swapAt(0, heap.count - 1)
            let result = heap.removeLast()
            var parent = 0
            while 2 * parent + 1 < heap.count {
                var child = 2 * parent + 1
                if child + 1 < heap.count, heap[child + 1].precedes(heap[child]) { child += 1 }
                guard heap[child].precedes(heap[parent]) else { break }
                heap.swapAt(child, parent)
                parent = child
            }
            return result
        }
    }
}
