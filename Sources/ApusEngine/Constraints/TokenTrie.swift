/// The spellings of a vocabulary's tokens as a tree, laid out depth first so that a walk reads memory in order and skips a
/// subtree by one jump.
struct TokenTrie: Sendable {
    private struct Node {
        var byte: UInt8
        /// 1 for the first byte of a token.
        var depth: UInt16
        /// The node after this one's subtree.
        var end: Int32
        /// The range of `tokens` spelled by the path to this node.
        var firstToken: Int32
        var tokenCount: Int32
    }

    private let nodes: [Node]
    private let tokens: [Int32]
    /// The bytes of the longest token.
    let depth: Int

    /// A tree of the given spellings by token id; empty and missing ones are left out. At most 65,535 bytes each.
    init(_ spellings: [[UInt8]?]) {
        var entries: [(bytes: [UInt8], token: Int32)] = []
        for (token, bytes) in spellings.enumerated() {
            if let bytes, !bytes.isEmpty { entries.append((bytes, Int32(token))) }
        }
        entries.sort { $0.bytes.lexicographicallyPrecedes($1.bytes) || ($0.bytes == $1.bytes && $0.token < $1.token) }
        var nodes: [Node] = []
        var path: [Int] = []
        var previous: [UInt8] = []
        for (index, entry) in entries.enumerated() {
            var common = 0
            while common < min(previous.count, entry.bytes.count), previous[common] == entry.bytes[common] {
                common += 1
            }
            for open in path[common...] { nodes[open].end = Int32(nodes.count) }
            path.removeLast(path.count - common)
            for depth in common..<entry.bytes.count {
                path.append(nodes.count)
                nodes.append(
                    Node(byte: entry.bytes[depth], depth: UInt16(depth + 1), end: 0, firstToken: 0, tokenCount: 0))
            }
            if nodes[path[path.count - 1]].tokenCount == 0 { nodes[path[path.count - 1]].firstToken = Int32(index) }
            nodes[path[path.count - 1]].tokenCount += 1
            previous = entry.bytes
        }
        for open in path { nodes[open].end = Int32(nodes.count) }
        self.nodes = nodes
        tokens = entries.map(\.token)
        depth = entries.reduce(0) { max($0, $1.bytes.count) }
    }

    /// Adds to `mask` the tokens whose bytes the automaton can read from a state.
    func collect(_ automaton: inout PushdownAutomaton, from state: Int32, into mask: inout TokenMask) {
        var states = [Int32](repeating: 0, count: depth + 1)
        states[0] = state
        var index = 0
        while index < nodes.count {
            let node = nodes[index]
            let depth = Int(node.depth)
            let next = automaton.step(states[depth - 1], node.byte)
            if next == PushdownAutomaton.dead {
                index = Int(node.end)
                continue
            }
            states[depth] = next
            for place in Int(node.firstToken)..<Int(node.firstToken + node.tokenCount) { mask.insert(tokens[place]) }
            index += 1
        }
    }
}
