extension ScalarAutomaton {
    /// The automaton of an expression: Thompson's construction, then subsets.
    init(_ expression: RegularExpression) throws(AutomatonTooLarge) {
        var fragment = NondeterministicAutomaton()
        let end = try fragment.add(expression, from: 0)
        self = try fragment.determinized(accepting: end)
    }

    /// Exactly these byte strings, taken as scalars below 256.
    init(words: some Sequence<[UInt8]>) {
        var edges: [[Edge]] = [[]]
        var accepting = [false]
        for word in words {
            var state = 0
            for byte in word {
                let scalar = UInt32(byte)
                if let edge = edges[state].first(where: { $0.range.lowerBound == scalar }) {
                    state = edge.target
                } else {
                    edges[state].append(Edge(range: scalar...scalar, target: edges.count))
                    state = edges.count
                    edges.append([])
                    accepting.append(false)
                }
            }
            accepting[state] = true
        }
        self.init(edges: edges.map { $0.sorted { $0.range.lowerBound < $1.range.lowerBound } }, accepting: accepting)
    }

    /// Every text but these.
    init(excluding words: [String]) {
        guard !words.isEmpty else {
            self = .universal
            return
        }
        // State 0 is the root of the tree of words; `off` is reached where the tree is left.
        let off = 1
        var children: [[UInt32: Int]] = [[:], [:]]
        var isWord = [false, false]
        for word in words {
            var state = 0
            for scalar in word.unicodeScalars {
                if let next = children[state][scalar.value] {
                    state = next
                } else {
                    children[state][scalar.value] = children.count
                    state = children.count
                    children.append([:])
                    isWord.append(false)
                }
            }
            isWord[state] = true
        }
        let edges = children.map { table -> [Edge] in
            let named = ScalarSet(table.keys.map { $0...$0 })
            let rest = named.inverted.ranges.map { Edge(range: $0, target: off) }
            return (rest + table.map { Edge(range: $0.key...$0.key, target: $0.value) })
                .sorted { $0.range.lowerBound < $1.range.lowerBound }
        }
        self.init(edges: edges, accepting: isWord.map { !$0 })
    }

    /// Decimal integers, with or without a sign, that are multiples of `divisor`.
    init(multiplesOf divisor: Int) {
        var edges: [[Edge]] = []
        func digits(_ remainder: Int) -> [Edge] {
            (0..<10).map { digit in
                Edge(range: UInt32(48 + digit)...UInt32(48 + digit), target: 2 + (remainder * 10 + digit) % divisor)
            }
        }
        edges.append([Edge(range: 45...45, target: 1)] + digits(0))
        edges.append(digits(0))
        for remainder in 0..<divisor { edges.append(digits(remainder)) }
        self.init(edges: edges, accepting: [false, false] + (0..<divisor).map { $0 == 0 })
    }
}

/// An automaton with empty transitions, on the way from an expression to a deterministic one.
private struct NondeterministicAutomaton {
    private var moves: [[(set: ScalarSet, target: Int)]] = [[]]
    private var jumps: [[Int]] = [[]]

    private static let stateLimit = 1 << 16
    /// Bounds the time: members of all sets of states together.
    private static let workLimit = 1 << 22

    private mutating func newState() throws(AutomatonTooLarge) -> Int {
        guard moves.count < Self.stateLimit else { throw AutomatonTooLarge(limit: Self.stateLimit) }
        moves.append([])
        jumps.append([])
        return moves.count - 1
    }

    /// Adds the expression's paths from `start`; returns where they end. No path leads into `start` again.
    mutating func add(_ expression: RegularExpression, from start: Int) throws(AutomatonTooLarge) -> Int {
        switch expression {
        case .empty: return start
        case .nothing: return try newState()
        case .set(let set):
            let end = try newState()
            moves[start].append((set, end))
            return end
        case .sequence(let parts):
            var place = start
            for part in parts { place = try add(part, from: place) }
            return place
        case .alternatives(let choices):
            let end = try newState()
            for choice in choices {
                let entry = try newState()
                jumps[start].append(entry)
                jumps[try add(choice, from: entry)].append(end)
            }
            return end
        case .repetition(let body, let min, let max):
            var place = start
            for _ in 0..<min { place = try add(body, from: place) }
            guard let max else {
                let entry = try newState()
                jumps[place].append(entry)
                let last = try add(body, from: entry)
                jumps[last].append(entry)
                let end = try newState()
                jumps[entry].append(end)
                return end
            }
            let end = try newState()
            jumps[place].append(end)
            for _ in min..<Swift.max(min, max) {
                place = try add(body, from: place)
                jumps[place].append(end)
            }
            return end
        }
    }

    private func closure(_ states: [Int]) -> [Int] {
        var seen = Set(states)
        var queue = states
        while let state = queue.popLast() {
            for next in jumps[state] where seen.insert(next).inserted { queue.append(next) }
        }
        return seen.sorted()
    }

    func determinized(accepting end: Int) throws(AutomatonTooLarge) -> ScalarAutomaton {
        let first = closure([0])
        var numbers = [first: 0]
        var subsets = [first]
        var edges: [[ScalarAutomaton.Edge]] = []
        var work = 0
        while edges.count < subsets.count {
            var list: [ScalarAutomaton.Edge] = []
            for (range, targets) in pieces(of: subsets[edges.count]) {
                let subset = closure(targets)
                work += subset.count
                guard work <= Self.workLimit else { throw AutomatonTooLarge(limit: Self.workLimit) }
                let number = numbers[subset] ?? subsets.count
                if number == subsets.count {
                    guard number < ScalarAutomaton.stateLimit else {
                        throw AutomatonTooLarge(limit: ScalarAutomaton.stateLimit)
                    }
                    numbers[subset] = number
                    subsets.append(subset)
                }
                list.append(ScalarAutomaton.Edge(range: range, target: number))
            }
            edges.append(list)
        }
        return ScalarAutomaton(edges: edges, accepting: subsets.map { $0.contains(end) })
    }

    /// Cuts the moves of some states into disjoint ranges with all the states that each leads to.
    private func pieces(of states: [Int]) -> [(ClosedRange<UInt32>, [Int])] {
        var cuts: [(at: UInt32, target: Int, opens: Bool)] = []
        for state in states {
            for (set, target) in moves[state] {
                for range in set.ranges {
                    cuts.append((range.lowerBound, target, true))
                    cuts.append((range.upperBound + 1, target, false))
                }
            }
        }
        cuts.sort { $0.at < $1.at }
        var open: [Int: Int] = [:]
        var result: [(ClosedRange<UInt32>, [Int])] = []
        var index = 0
        while index < cuts.count {
            let at = cuts[index].at
            while index < cuts.count, cuts[index].at == at {
                let count = open[cuts[index].target, default: 0] + (cuts[index].opens ? 1 : -1)
                open[cuts[index].target] = count == 0 ? nil : count
                index += 1
            }
            if index < cuts.count, !open.isEmpty { result.append((at...(cuts[index].at - 1), open.keys.sorted())) }
        }
        return result
    }
}
