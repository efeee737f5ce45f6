/// A context-free language of bytes: rules whose bodies are graphs of terminals, calls and choices. Each terminal is a
/// regular language of its own.
struct Grammar: Sendable {
    /// A place in a rule's body.
    enum Node: Sendable {
        /// A terminal, then the place `next`.
        case terminal(Int, next: Int)
        /// A rule, then the place `next`.
        case call(rule: Int, next: Int)
        /// Any one of these places.
        case fork([Int])
        /// The rule `first`, then `again` any number of times so that there are between `min` and `max` in all, then `exit`.
        case loop(first: Int, again: Int, min: Int, max: Int?, exit: Int)
        /// The end of the rule.
        case end
    }

    private(set) var nodes: [Node]
    /// Where each rule begins.
    private(set) var starts: [Int]
    let terminals: [Terminal]

    /// The rule that is the whole language.
    static let root = 0

    /// Keeps only what can be completed.
    /// - Returns: nil where the root cannot.
    init?(nodes: [Node], starts: [Int], terminals: [Terminal]) {
        self.nodes = nodes
        self.starts = starts
        self.terminals = terminals
        let productive = productiveNodes()
        guard productive[starts[Self.root]] else { return nil }
        for index in nodes.indices {
            switch nodes[index] {
            case .fork(let places): self.nodes[index] = .fork(places.filter { productive[$0] })
            case .loop(let first, let again, let min, let max, let exit):
                var most = max
                if !productive[starts[again]] { most = Swift.min(most ?? 1, 1) }
                if !productive[starts[first]] { most = 0 }
                self.nodes[index] = .loop(first: first, again: again, min: min, max: most, exit: exit)
            case .terminal, .call, .end: break
            }
        }
    }

    /// Which places can reach the end of their rule: the least fixed point.
    private func productiveNodes() -> [Bool] {
        var productive = [Bool](repeating: false, count: nodes.count)
        var changed = true
        while changed {
            changed = false
            // Bodies are built from their ends, so most places follow those they depend on.
            for index in nodes.indices where !productive[index] && completes(nodes[index], productive) {
                productive[index] = true
                changed = true
            }
        }
        return productive
    }

    private func completes(_ node: Node, _ productive: [Bool]) -> Bool {
        switch node {
        case .end: true
        case .terminal(let terminal, let next): !terminals[terminal].isEmpty && productive[next]
        case .call(let rule, let next): productive[starts[rule]] && productive[next]
        case .fork(let places): places.contains { productive[$0] }
        case .loop(let first, let again, let min, let max, let exit):
            productive[exit] && max ?? min >= min
                && (min == 0 || productive[starts[first]] && (min == 1 || productive[starts[again]]))
        }
    }

    /// A rule that can begin with itself, without a byte in between; nil where there is none.
    func leftRecursiveRule() -> Int? {
        let first = starts.map { rulesAtStart($0) }
        var color = [UInt8](repeating: 0, count: starts.count)
        for root in starts.indices where color[root] == 0 {
            var stack = [(rule: root, next: 0)]
            color[root] = 1
            while let (rule, next) = stack.last {
                guard next < first[rule].count else {
                    color[rule] = 2
                    stack.removeLast()
                    continue
                }
                stack[stack.count - 1].next += 1
                let callee = first[rule][next]
                if color[callee] == 1 { return callee }
                if color[callee] == 0 {
                    color[callee] = 1
                    stack.append((callee, 0))
                }
            }
        }
        return nil
    }

    /// The rules that may be called from a place before anything is read. Rules themselves are never empty.
    private func rulesAtStart(_ place: Int) -> [Int] {
        var seen: Set<Int> = [place]
        var queue = [place]
        var result: [Int] = []
        func visit(_ place: Int) { if seen.insert(place).inserted { queue.append(place) } }
        while let place = queue.popLast() {
            switch nodes[place] {
            case .terminal(let terminal, let next): if terminals[terminal].isNullable { visit(next) }
            case .call(let rule, _): result.append(rule)
            case .fork(let places): places.forEach(visit)
            case .loop(let first, _, let min, _, let exit):
                result.append(first)
                if min == 0 { visit(exit) }
            case .end: break
            }
        }
        return result
    }
}

/// A regular language of bytes, walked by states that are numbers.
enum Terminal: Sendable {
    /// Bytes as they stand.
    case bytes(ScalarAutomaton)
    /// A JSON string.
    case string(StringLanguage)

    var isEmpty: Bool {
        switch self {
        case .bytes(let automaton): automaton.isEmpty
        case .string(let language): language.isEmpty
        }
    }

    /// Whether it holds the empty text.
    var isNullable: Bool { isAccepting(start) }

    var start: UInt64 {
        switch self {
        case .bytes: 0
        case .string(let language): language.start
        }
    }

    func isAccepting(_ state: UInt64) -> Bool {
        switch self {
        case .bytes(let automaton): automaton.accepting[Int(state)]
        case .string(let language): language.isAccepting(state)
        }
    }

    /// Whether anything may follow in the terminal itself.
    func goesOn(_ state: UInt64) -> Bool {
        switch self {
        case .bytes(let automaton): !automaton.edges[Int(state)].isEmpty
        case .string(let language): !language.isAccepting(state)
        }
    }

    func step(_ state: UInt64, _ byte: UInt8) -> UInt64? {
        switch self {
        case .bytes(let automaton): automaton.step(Int(state), UInt32(byte)).map { UInt64($0) }
        case .string(let language): language.step(state, byte)
        }
    }

    /// A state that allows the same next `horizon` bytes and stands for many.
    func representative(_ state: UInt64, horizon: Int) -> UInt64 {
        switch self {
        case .bytes: state
        case .string(let language): language.representative(state, horizon: horizon)
        }
    }
}
