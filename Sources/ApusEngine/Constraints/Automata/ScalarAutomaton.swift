/// What outgrew its limit while a language was made into an automaton.
struct AutomatonTooLarge: Error {
    let limit: Int
}

/// A deterministic automaton over Unicode scalars (or over bytes, taken as scalars below 256) in which every state can
/// reach acceptance: what it has read is always the beginning of something that it accepts.
///
/// State 0 is the start. A language without any text has no states.
struct ScalarAutomaton: Sendable {
    struct Edge: Sendable, Hashable {
        var range: ClosedRange<UInt32>
        var target: Int
    }

    /// Outgoing edges by state, sorted, disjoint.
    private(set) var edges: [[Edge]]
    private(set) var accepting: [Bool]

    static let stateLimit = 1 << 15

    var isEmpty: Bool { edges.isEmpty }

    /// Keeps of the given automaton what is reachable from state 0 and can reach acceptance.
    init(edges: [[Edge]], accepting: [Bool]) {
        let alive = Self.thoseReaching(accepting, edges)
        var numbers = [Int](repeating: -1, count: edges.count)
        var order: [Int] = []
        self.edges = []
        self.accepting = []
        guard !edges.isEmpty, alive[0] else { return }
        numbers[0] = 0
        order.append(0)
        var next = 0
        while next < order.count {
            var kept: [Edge] = []
            for edge in edges[order[next]] where alive[edge.target] {
                if numbers[edge.target] < 0 {
                    numbers[edge.target] = order.count
                    order.append(edge.target)
                }
                let target = numbers[edge.target]
                if let last = kept.last, last.target == target, last.range.upperBound + 1 == edge.range.lowerBound {
                    kept[kept.count - 1].range = last.range.lowerBound...edge.range.upperBound
                } else {
                    kept.append(Edge(range: edge.range, target: target))
                }
            }
            self.edges.append(kept)
            self.accepting.append(accepting[order[next]])
            next += 1
        }
    }

    private static func thoseReaching(_ accepting: [Bool], _ edges: [[Edge]]) -> [Bool] {
        var sources = [[Int]](repeating: [], count: edges.count)
        for (state, list) in edges.enumerated() { for edge in list { sources[edge.target].append(state) } }
        var alive = accepting
        var queue = accepting.indices.filter { accepting[$0] }
        while let state = queue.popLast() {
            for source in sources[state] where !alive[source] {
                alive[source] = true
                queue.append(source)
            }
        }
        return alive
    }

    /// The state after a scalar, or nil where none follows.
    func step(_ state: Int, _ scalar: UInt32) -> Int? {
        let list = edges[state]
        var low = 0
        var high = list.count
        while low < high {
            let middle = (low + high) / 2
            if list[middle].range.upperBound < scalar { low = middle + 1 } else { high = middle }
        }
        guard low < list.count, list[low].range.lowerBound <= scalar else { return nil }
        return list[low].target
    }

    /// Whether the whole text belongs to the language.
    func accepts(_ text: some Sequence<UInt32>) -> Bool {
        guard !isEmpty else { return false }
        var state = 0
        for scalar in text {
            guard let next = step(state, scalar) else { return false }
            state = next
        }
        return accepting[state]
    }

    /// Every text.
    static let universal = ScalarAutomaton(
        edges: [ScalarSet.all.ranges.map { Edge(range: $0, target: 0) }], accepting: [true])

    /// Whether this is the automaton of every text, as ``universal`` has it.
    var isUniversal: Bool {
        edges.count == 1 && accepting[0] && ScalarSet(edges[0].map(\.range)) == .all
    }

    /// The texts that this one does not accept.
    var complement: ScalarAutomaton {
        let sink = max(edges.count, 1)
        var all = (isEmpty ? [[]] : edges).map { list in
            let rest = ScalarSet(list.map(\.range)).inverted.ranges.map { Edge(range: $0, target: sink) }
            return (list + rest).sorted { $0.range.lowerBound < $1.range.lowerBound }
        }
        all.append(ScalarSet.all.ranges.map { Edge(range: $0, target: sink) })
        return ScalarAutomaton(edges: all, accepting: (isEmpty ? [false] : accepting).map { !$0 } + [true])
    }

    /// The texts that both accept: the product, at most ``stateLimit`` states.
    func intersection(_ other: ScalarAutomaton) throws(AutomatonTooLarge) -> ScalarAutomaton {
        guard !isEmpty, !other.isEmpty else { return ScalarAutomaton(edges: [], accepting: []) }
        if other.isUniversal { return self }
        if isUniversal { return other }
        struct Pair: Hashable {
            var left: Int
            var right: Int
        }
        var numbers = [Pair(left: 0, right: 0): 0]
        var pairs = [Pair(left: 0, right: 0)]
        var edges: [[Edge]] = []
        while edges.count < pairs.count {
            let pair = pairs[edges.count]
            var list: [Edge] = []
            for left in self.edges[pair.left] {
                for right in other.edges[pair.right] where left.range.overlaps(right.range) {
                    let target = Pair(left: left.target, right: right.target)
                    let number = numbers[target] ?? pairs.count
                    if number == pairs.count {
                        guard pairs.count < Self.stateLimit else { throw AutomatonTooLarge(limit: Self.stateLimit) }
                        numbers[target] = number
                        pairs.append(target)
                    }
                    list.append(Edge(range: left.range.clamped(to: right.range), target: number))
                }
            }
            edges.append(list.sorted { $0.range.lowerBound < $1.range.lowerBound })
        }
        return ScalarAutomaton(
            edges: edges, accepting: pairs.map { accepting[$0.left] && other.accepting[$0.right] })
    }
}
