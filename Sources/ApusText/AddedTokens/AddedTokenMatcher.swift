/// Finds added tokens in text: the leftmost, of several there the longest.
///
/// A trie over bytes; only places whose byte begins some token are looked at further, so text without such bytes is
/// passed over at about a byte a cycle.
struct AddedTokenMatcher: Sendable {
    private struct Node {
        /// The next bytes, in order, and their nodes.
        var bytes: [UInt8] = []
        var children: [Int32] = []
        /// The token that ends here: a place in `tokens`, or -1.
        var token: Int32 = -1
    }

    private let nodes: [Node]
    private let tokens: [AddedToken]
    /// The node of each first byte, 0 where no token begins with it.
    private let roots: FixedBuffer<Int32>

    /// A matcher of tokens by their patterns, or nil where there are none. Of equal patterns the last counts.
    init?(_ patterns: [(text: [UInt8], token: AddedToken)]) {
        guard !patterns.isEmpty else { return nil }
        var nodes = [Node()]
        tokens = patterns.map(\.token)
        roots = FixedBuffer(repeating: 0, count: 256)
        for (index, pattern) in patterns.enumerated() where !pattern.text.isEmpty {
            var node = 0
            for byte in pattern.text {
                if let place = nodes[node].bytes.firstIndex(of: byte) {
                    node = Int(nodes[node].children[place])
                    continue
                }
                nodes[node].bytes.append(byte)
                nodes[node].children.append(Int32(nodes.count))
                node = nodes.count
                nodes.append(Node())
            }
            nodes[node].token = Int32(index)
        }
        for (byte, child) in zip(nodes[0].bytes, nodes[0].children) { roots[Int(byte)] = child }
        self.nodes = nodes
    }

    /// A stretch of text, or an added token in place of one.
    enum Segment {
        case text(Range<Int>)
        case token(Int32)
    }

    /// Calls `body` with the segments of `text` in order; empty ones are left out.
    /// - Parameter findsSpecial: whether special tokens are found; where not, they stay text.
    func forEachSegment(
        of text: UnsafeBufferPointer<UInt8>, findsSpecial: Bool, _ body: (Segment) -> Void
    ) {
        guard let base = text.baseAddress else { return }
        let end = text.count
        var emitted = 0
        var position = 0
        while true {
            while position < end, roots[Int(base[position])] == 0 { position += 1 }
            guard position < end else { break }
            guard let (token, length) = longest(base, position, end) else {
                position += 1
                continue
            }
            var start = position
            var stop = position + length
            position = stop
            if token.isSpecial, !findsSpecial { continue }
            if token.isSingleWord, touchesWord(base, start: start, stop: stop, end: end) { continue }
            if token.stripsLeft {
                while start > emitted {
                    let before = UTF8Text.previous(base + start)
                    guard CharacterSet.whiteSpace.contains(UTF8Text.decode(before).scalar) else { break }
                    start = before - base
                }
                start = Swift.max(start, emitted)
            }
            if token.stripsRight {
                while stop < end {
                    let (scalar, length) = UTF8Text.decode(base + stop)
                    guard CharacterSet.whiteSpace.contains(scalar) else { break }
                    stop += length
                }
            }
            if emitted < start { body(.text(emitted..<start)) }
            body(.token(token.id))
            emitted = stop
        }
        if emitted < end { body(.text(emitted..<end)) }
    }

    private func longest(_ base: UnsafePointer<UInt8>, _ start: Int, _ end: Int) -> (AddedToken, Int)? {
        var node = Int(roots[Int(base[start])])
        var position = start + 1
        var best: (Int32, Int)?
        while true {
            if nodes[node].token >= 0 { best = (nodes[node].token, position - start) }
            guard position < end, let place = nodes[node].bytes.firstIndex(of: base[position]) else { break }
            node = Int(nodes[node].children[place])
            position += 1
        }
        return best.map { (tokens[Int($0.0)], $0.1) }
    }

    private func touchesWord(_ base: UnsafePointer<UInt8>, start: Int, stop: Int, end: Int) -> Bool {
        if start > 0, CharacterSet.word.contains(UTF8Text.decode(UTF8Text.previous(base + start)).scalar) {
            return true
        }
        return stop < end && CharacterSet.word.contains(UTF8Text.decode(base + stop).scalar)
    }
}
