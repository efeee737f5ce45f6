/// Reads a grammar's language byte by byte. Its states are the sets of all ways to have read the text so far, numbered
/// when first met, with their transitions remembered: a text that was met before costs an array look-up a byte.
///
/// Stacks of open rules are shared lists of frames, numbered as well, so that equal stacks have equal numbers. What has
/// been remembered is forgotten as a whole when it outgrows a limit; ``epoch`` then changes, and states of before mean
/// nothing any more.
struct PushdownAutomaton {
    private let grammar: Grammar

    /// A place to go on at, how often its loop has run, and the frame below (-1 for none).
    private struct Frame: Hashable {
        var node: Int32
        var count: Int32
        var parent: Int32
    }

    /// One way to have read the text: at a terminal, in one of its states. The frame's node is the terminal's.
    private struct Configuration: Hashable, Comparable {
        var frame: Int32
        var state: UInt64

        static func < (left: Configuration, right: Configuration) -> Bool {
            left.frame != right.frame ? left.frame < right.frame : left.state < right.state
        }
    }

    private struct StateKey: Hashable {
        var configurations: [Configuration]
        var isComplete: Bool
    }

    private var frames: [Frame] = []
    private var frameNumbers: [Frame: Int32] = [:]
    private var states: [StateKey] = []
    private var stateNumbers: [StateKey: Int32] = [:]
    /// The numbers of states of one configuration, where no text is complete.
    private var singleNumbers: [Configuration: Int32] = [:]
    /// 256 a state: the next state, or one of the two below.
    private var transitions: [Int32] = []
    /// By horizon, then by state; -1 where not asked for yet.
    private var representatives: [[Int32]]
    private let horizons: [Int]

    /// Changes when the states are forgotten.
    private(set) var epoch = 0
    /// The state before the first byte.
    private(set) var start: Int32 = 0

    /// No text goes on so.
    static let dead: Int32 = -1
    private static let unknown: Int32 = -2
    private static let stateLimit = 1 << 15
    private static let frameLimit = 1 << 20

    /// - Parameter horizons: the numbers of bytes that ``representative(_:horizon:)`` will be asked about.
    init(_ grammar: Grammar, horizons: [Int]) {
        self.grammar = grammar
        self.horizons = horizons
        representatives = horizons.map { _ in [] }
        begin()
    }

    private mutating func begin() {
        var builder = Closure()
        enter(grammar.starts[Grammar.root], count: 0, parent: -1, &builder)
        start = number(builder)
    }

    /// Forgets everything where too much is remembered. To be called between texts only.
    mutating func forgetIfLarge() {
        guard states.count > Self.stateLimit || frames.count > Self.frameLimit else { return }
        frames = []
        frameNumbers = [:]
        states = []
        stateNumbers = [:]
        singleNumbers = [:]
        transitions = []
        representatives = horizons.map { _ in [] }
        epoch += 1
        begin()
    }

    /// Whether the text may end in this state.
    func isComplete(_ state: Int32) -> Bool { states[Int(state)].isComplete }

    /// The state after a byte, or ``dead``.
    @inline(__always)
    mutating func step(_ state: Int32, _ byte: UInt8) -> Int32 {
        let known = transitions[Int(state) << 8 | Int(byte)]
        return known != Self.unknown ? known : compute(state, byte)
    }

    private mutating func compute(_ state: Int32, _ byte: UInt8) -> Int32 {
        let result = stepInside(state, byte) ?? stepAnywhere(state, byte)
        transitions[Int(state) << 8 | Int(byte)] = result
        return result
    }

    /// The step of most bytes: in one terminal, not to its end. Nil where the state is of another kind.
    private mutating func stepInside(_ state: Int32, _ byte: UInt8) -> Int32? {
        guard states[Int(state)].configurations.count == 1 else { return nil }
        let configuration = states[Int(state)].configurations[0]
        guard case .terminal(let index, _) = grammar.nodes[Int(frames[Int(configuration.frame)].node)] else {
            return nil
        }
        guard let after = grammar.terminals[index].step(configuration.state, byte) else { return Self.dead }
        guard !grammar.terminals[index].isAccepting(after) else { return nil }
        let next = Configuration(frame: configuration.frame, state: after)
        if let known = singleNumbers[next] { return known }
        let result = number(StateKey(configurations: [next], isComplete: false))
        singleNumbers[next] = result
        return result
    }

    private mutating func stepAnywhere(_ state: Int32, _ byte: UInt8) -> Int32 {
        var builder = Closure()
        for configuration in states[Int(state)].configurations {
            let frame = frames[Int(configuration.frame)]
            guard case .terminal(let index, let next) = grammar.nodes[Int(frame.node)],
                let after = grammar.terminals[index].step(configuration.state, byte)
            else { continue }
            let terminal = grammar.terminals[index]
            if terminal.goesOn(after) {
                builder.configurations.insert(Configuration(frame: configuration.frame, state: after))
            }
            if terminal.isAccepting(after) { enter(next, count: frame.count, parent: frame.parent, &builder) }
        }
        return builder.isDead ? Self.dead : number(builder)
    }

    // MARK: What can come without reading

    private struct Closure {
        var configurations: Set<Configuration> = []
        var seen: Set<Frame> = []
        var isComplete = false

        var isDead: Bool { configurations.isEmpty && !isComplete }
    }

    /// Adds all terminals that can come next at a place.
    private mutating func enter(_ node: Int, count: Int32, parent: Int32, _ closure: inout Closure) {
        var queue = [Frame(node: Int32(node), count: count, parent: parent)]
        while let place = queue.popLast() {
            guard closure.seen.insert(place).inserted else { continue }
            switch grammar.nodes[Int(place.node)] {
            case .terminal(let index, let next):
                let terminal = grammar.terminals[index]
                if terminal.goesOn(terminal.start) {
                    closure.configurations.insert(Configuration(frame: number(place), state: terminal.start))
                }
                if terminal.isNullable {
                    queue.append(Frame(node: Int32(next), count: place.count, parent: place.parent))
                }
            case .call(let rule, let next):
                queue.append(call(rule, Frame(node: Int32(next), count: place.count, parent: place.parent)))
            case .fork(let places):
                for next in places { queue.append(Frame(node: Int32(next), count: place.count, parent: place.parent)) }
            case .loop(let first, let again, let min, let max, let exit):
                if max.map({ Int(place.count) < $0 }) ?? true {
                    // Without a maximum it is enough to know whether the minimum is reached.
                    let most = max ?? Swift.max(min, 1)
                    let back = Frame(
                        node: place.node, count: Int32(Swift.min(Int(place.count) + 1, most)), parent: place.parent)
                    queue.append(call(place.count == 0 ? first : again, back))
                }
                if place.count >= min { queue.append(Frame(node: Int32(exit), count: 0, parent: place.parent)) }
            case .end:
                if place.parent < 0 { closure.isComplete = true } else { queue.append(frames[Int(place.parent)]) }
            }
        }
    }

    /// The first place of a rule that returns to `back`. A return that only returns again is left out.
    private mutating func call(_ rule: Int, _ back: Frame) -> Frame {
        let start = Int32(grammar.starts[rule])
        if case .end = grammar.nodes[Int(back.node)] { return Frame(node: start, count: 0, parent: back.parent) }
        return Frame(node: start, count: 0, parent: number(back))
    }

    // MARK: Numbering

    private mutating func number(_ frame: Frame) -> Int32 {
        if let known = frameNumbers[frame] { return known }
        let number = Int32(frames.count)
        frames.append(frame)
        frameNumbers[frame] = number
        return number
    }

    private mutating func number(_ closure: Closure) -> Int32 {
        number(StateKey(configurations: closure.configurations.sorted(), isComplete: closure.isComplete))
    }

    private mutating func number(_ key: StateKey) -> Int32 {
        if let known = stateNumbers[key] { return known }
        let number = Int32(states.count)
        states.append(key)
        stateNumbers[key] = number
        transitions.append(contentsOf: repeatElement(Self.unknown, count: 256))
        for index in horizons.indices { representatives[index].append(-1) }
        return number
    }

    // MARK: Representatives

    /// A state in which the same texts may come of up to as many bytes as the horizon of this index says; equal for states
    /// that differ only in counts far from their limits.
    mutating func representative(_ state: Int32, horizon index: Int) -> Int32 {
        let known = representatives[index][Int(state)]
        if known >= 0 { return known }
        let key = states[Int(state)]
        let horizon = horizons[index]
        var changed: Set<Configuration> = []
        for configuration in key.configurations {
            let frame = frames[Int(configuration.frame)]
            guard case .terminal(let terminal, _) = grammar.nodes[Int(frame.node)] else { continue }
            changed.insert(
                Configuration(
                    frame: representative(frame: configuration.frame, horizon),
                    state: grammar.terminals[terminal].representative(configuration.state, horizon: horizon)))
        }
        let result = number(StateKey(configurations: changed.sorted(), isComplete: key.isComplete))
        representatives[index][Int(state)] = result
        representatives[index][Int(result)] = result
        return result
    }

    private mutating func representative(frame: Int32, _ horizon: Int) -> Int32 {
        var path: [Frame] = []
        var current = frame
        while current >= 0 {
            path.append(frames[Int(current)])
            current = frames[Int(current)].parent
        }
        for var frame in path.reversed() {
            frame.parent = current
            if frame.count > 1, case .loop(_, _, let min, let max, _) = grammar.nodes[Int(frame.node)] {
                let room = max.map { $0 - Int(frame.count) } ?? .max
                if room > horizon {
                    if min - Int(frame.count) > horizon {
                        frame.count = 1
                    } else if frame.count > min {
                        frame.count = Int32(Swift.max(min, 1))
                    }
                }
            }
            current = number(frame)
        }
        return current
    }
}
