/// A compiled regular expression for splitting text: leftmost matches with the priorities of a backtracking engine
/// (Oniguruma's), over UTF-8.
///
/// Backtracking is bounded: past a number of steps, places already found hopeless are remembered and not tried again,
/// so a match costs at most the length of the text times that of the program.
struct RegexProgram: Sendable {
    enum Instruction: Sendable {
        /// One character of a set.
        case character(Int)
        /// As many characters of a set as possible (or as few, or all of them for good), then the next instruction.
        case run(set: Int, min: Int, max: Int, RegexNode.Greed)
        /// Try the first place, then the second.
        case fork(Int, Int)
        case jump(Int)
        case anchor(RegexNode.Anchor)
        /// Match the program up to its `accept` at the next instruction without moving, then go to `next`.
        case ahead(isNegative: Bool, next: Int)
        /// The same, moving: what it matched is never given back.
        case atomic(next: Int)
        /// The character before is, or is not, of a set.
        case behind(set: Int, isNegative: Bool)
        case accept
    }

    private(set) var instructions: [Instruction] = []
    private(set) var sets: [CharacterSet] = []

    private static let sizeLimit = 20_000

    /// Compiles a pattern.
    init(_ pattern: String) throws(RegexError) {
        var parser = RegexParser(pattern)
        try emit(try parser.parse())
        instructions.append(.accept)
    }

    private mutating func add(_ set: CharacterSet) -> Int {
        sets.append(set)
        return sets.count - 1
    }

    private mutating func emit(_ node: RegexNode) throws(RegexError) {
        guard instructions.count < Self.sizeLimit else { throw RegexError(reason: "too large a pattern") }
        switch node {
        case .empty: break
        case .set(let set): instructions.append(.character(add(set)))
        case .sequence(let nodes): for node in nodes { try emit(node) }
        case .alternatives(let nodes):
            var jumps: [Int] = []
            for (index, node) in nodes.enumerated() {
                let fork = instructions.count
                let isLast = index == nodes.count - 1
                if !isLast { instructions.append(.accept) }
                try emit(node)
                if !isLast {
                    jumps.append(instructions.count)
                    instructions.append(.accept)
                    instructions[fork] = .fork(fork + 1, instructions.count)
                }
            }
            for jump in jumps { instructions[jump] = .jump(instructions.count) }
        case .repetition(.set(let set), let min, let max, let greed):
            instructions.append(.run(set: add(set), min: min, max: max ?? .max, greed))
        case .repetition(let node, let min, let max, .possessive):
            try emit(.atomic(.repetition(node, min: min, max: max, .greedy)))
        case .repetition(let node, let min, let max, let greed): try emit(node, min: min, max: max, greed)
        case .look(.set(let set), false, let isNegative):
            instructions.append(.behind(set: add(set), isNegative: isNegative))
        case .look(let node, _, let isNegative):
            try emitSub(node) { .ahead(isNegative: isNegative, next: $0) }
        case .atomic(let node): try emitSub(node) { .atomic(next: $0) }
        case .anchor(let anchor): instructions.append(.anchor(anchor))
        }
    }

    private mutating func emitSub(_ node: RegexNode, _ instruction: (Int) -> Instruction) throws(RegexError) {
        let place = instructions.count
        instructions.append(.accept)
        try emit(node)
        instructions.append(.accept)
        instructions[place] = instruction(instructions.count)
    }

    private mutating func emit(
        _ node: RegexNode, min: Int, max: Int?, _ greed: RegexNode.Greed
    ) throws(RegexError) {
        func fork(_ body: Int, _ after: Int) -> Instruction { greed == .lazy ? .fork(after, body) : .fork(body, after) }
        for _ in 0..<min { try emit(node) }
        guard let max else {
            let place = instructions.count
            instructions.append(.accept)
            try emit(node)
            instructions.append(.jump(place))
            instructions[place] = fork(place + 1, instructions.count)
            return
        }
        var forks: [Int] = []
        for _ in min..<Swift.max(max, min) {
            forks.append(instructions.count)
            instructions.append(.accept)
            try emit(node)
        }
        for place in forks { instructions[place] = fork(place + 1, instructions.count) }
    }

    /// Calls `body` with the matches of `text`, leftmost first, none overlapping. Empty matches count, but not where
    /// the previous match ended.
    func forEachMatch(in text: UnsafeBufferPointer<UInt8>, _ body: (Range<Int>) -> Void) {
        guard text.count > 0 else { return }
        var matcher = RegexMatcher(program: self, text: text)
        var start = 0
        var previousEnd = -1
        while start <= text.count {
            guard let end = matcher.match(at: start) else {
                start += start < text.count ? UTF8Text.length(text[start]) : 1
                continue
            }
            if end > start {
                body(start..<end)
                start = end
            } else {
                if previousEnd != start { body(start..<start) }
                start += start < text.count ? UTF8Text.length(text[start]) : 1
            }
            previousEnd = end
        }
    }
}
