/// Runs a `RegexProgram` at places of one text.
struct RegexMatcher {
    private enum Choice {
        /// Go on with an instruction at a position.
        case resume(Int, Int)
        /// A greedy run that may give back: instruction, least end, end tried last.
        case shrink(Int, Int, Int)
        /// A lazy run that may take one more: instruction, end tried last, characters left.
        case extend(Int, Int, Int)
    }

    private struct State: Hashable {
        var instruction: Int
        var position: Int
    }

    private let program: RegexProgram
    private let text: UnsafeBufferPointer<UInt8>
    private var choices: [Choice] = []

    /// Steps of one match after which hopeless states are remembered.
    private static let patience = 20_000

    init(program: RegexProgram, text: UnsafeBufferPointer<UInt8>) {
        self.program = program
        self.text = text
    }

    /// The end of the match at `start`, or nil.
    mutating func match(at start: Int) -> Int? { match(from: 0, at: start) }

    private mutating func match(from first: Int, at start: Int) -> Int? {
        let floor = choices.count
        defer { choices.removeSubrange(floor...) }
        var tried: Set<State> = []
        var steps = 0
        var instruction = first
        var position = start
        while true {
            steps += 1
            var failed = false
            switch program.instructions[instruction] {
            case .accept: return position
            case .character(let set):
                if let length = character(position, set) {
                    position += length
                    instruction += 1
                } else {
                    failed = true
                }
            case .jump(let place): instruction = place
            case .anchor(let anchor):
                failed = !holds(anchor, position)
                instruction += 1
            case .behind(let set, let isNegative):
                failed = matchesBefore(position, set) == isNegative
                instruction += 1
            case .ahead(let isNegative, let next):
                failed = (match(from: instruction + 1, at: position) == nil) != isNegative
                instruction = next
            case .atomic(let next):
                if let end = match(from: instruction + 1, at: position) {
                    position = end
                    instruction = next
                } else {
                    failed = true
                }
            case .fork(let one, let other):
                if steps > Self.patience, !tried.insert(State(instruction: instruction, position: position)).inserted {
                    failed = true
                } else {
                    choices.append(.resume(other, position))
                    instruction = one
                }
            case .run(let set, let min, let max, let greed):
                if steps > Self.patience, !tried.insert(State(instruction: instruction, position: position)).inserted {
                    failed = true
                } else if let end = take(set, from: position, count: min) {
                    position = run(instruction, set, from: end, limit: max - min, greed)
                    instruction += 1
                } else {
                    failed = true
                }
            }
            if failed {
                guard let (next, place) = backtrack(to: floor) else { return nil }
                instruction = next
                position = place
            }
        }
    }

    /// Takes what a run takes at first and notes what else it could take.
    private mutating func run(
        _ instruction: Int, _ set: Int, from start: Int, limit: Int, _ greed: RegexNode.Greed
    ) -> Int {
        if greed == .lazy {
            if limit > 0 { choices.append(.extend(instruction, start, limit)) }
            return start
        }
        var end = start
        var count = 0
        while count < limit, let length = character(end, set) {
            end += length
            count += 1
        }
        if greed == .greedy, end > start { choices.append(.shrink(instruction, start, end)) }
        return end
    }

    private mutating func backtrack(to floor: Int) -> (Int, Int)? {
        while choices.count > floor {
            switch choices.removeLast() {
            case .resume(let instruction, let position): return (instruction, position)
            case .shrink(let instruction, let least, let end):
                var shorter = end - 1
                while text[shorter] & 0xC0 == 0x80 { shorter -= 1 }
                if shorter > least { choices.append(.shrink(instruction, least, shorter)) }
                return (instruction + 1, shorter)
            case .extend(let instruction, let end, let left):
                guard case .run(let set, _, _, _) = program.instructions[instruction],
                    let length = character(end, set)
                else { continue }
                if left > 1 { choices.append(.extend(instruction, end + length, left - 1)) }
                return (instruction + 1, end + length)
            }
        }
        return nil
    }

    private func take(_ set: Int, from start: Int, count: Int) -> Int? {
        var end = start
        for _ in 0..<count {
            guard let length = character(end, set) else { return nil }
            end += length
        }
        return end
    }

    /// The length of the character at `position` if it belongs to the set.
    @inline(__always)
    private func character(_ position: Int, _ set: Int) -> Int? {
        guard position < text.count else { return nil }
        let (scalar, length) = UTF8Text.decode(text.baseAddress! + position)
        return program.sets[set].contains(scalar) ? length : nil
    }

    private func matchesBefore(_ position: Int, _ set: Int) -> Bool {
        guard position > 0 else { return false }
        let start = UTF8Text.previous(text.baseAddress! + position)
        return program.sets[set].contains(UTF8Text.decode(start).scalar)
    }

    private func holds(_ anchor: RegexNode.Anchor, _ position: Int) -> Bool {
        switch anchor {
        case .textStart: position == 0
        case .textEnd: position == text.count
        case .lineStart: position == 0 || text[position - 1] == 0x0A
        case .lineEnd: position == text.count || text[position] == 0x0A
        }
    }
}
