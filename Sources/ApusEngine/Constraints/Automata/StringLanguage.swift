/// The JSON strings, quotes and escapes included, whose characters an automaton accepts and whose length is in a range.
/// Read byte by byte; a character may be written in any way that JSON allows, and lone surrogates in none.
///
/// A state is one number: the automaton's state, the characters counted so far, and how far the next character has come.
struct StringLanguage: Sendable {
    private let automaton: ScalarAutomaton
    private let minLength: Int
    private let maxLength: Int?
    private let isUniversal: Bool
    /// For each state of the automaton, which numbers of further characters can end in acceptance: bit n for n, up to the
    /// largest number that matters. Empty where every number can, or none matters.
    private let remaining: [[UInt64]]

    /// Lengths are kept in 22 bits of a state.
    static let lengthLimit = 1 << 20
    private static let tableLimit = 1 << 24

    /// - Throws: ``AutomatonTooLarge`` where pattern and length together need too large a table.
    init(_ automaton: ScalarAutomaton, minLength: Int, maxLength: Int?) throws(AutomatonTooLarge) {
        isUniversal = automaton.isUniversal
        self.minLength = minLength
        self.maxLength = maxLength
        guard !isUniversal, minLength > 0 || maxLength != nil else {
            remaining = []
            self.automaton = maxLength ?? minLength < minLength ? ScalarAutomaton(edges: [], accepting: []) : automaton
            return
        }
        // Without a maximum, counting stops at the minimum; what remains beyond it is "at least that many".
        let table = try Self.remaining(automaton, limit: maxLength ?? minLength, saturates: maxLength == nil)
        remaining = table
        let isPossible = !automaton.isEmpty && Self.holds(table[0], from: minLength, to: maxLength ?? minLength)
        self.automaton = isPossible ? automaton : ScalarAutomaton(edges: [], accepting: [])
    }

    /// Whether no string belongs to the language.
    var isEmpty: Bool { automaton.isEmpty }

    /// Whether a string's characters and length fit.
    func accepts(_ text: String) -> Bool {
        let length = text.unicodeScalars.count
        return length >= minLength && length <= maxLength ?? length
            && automaton.accepts(text.unicodeScalars.lazy.map(\.value))
    }

    private static func remaining(
        _ automaton: ScalarAutomaton, limit: Int, saturates: Bool
    ) throws(AutomatonTooLarge) -> [[UInt64]] {
        let states = automaton.edges.count
        guard states == 0 || limit < tableLimit / states else { throw AutomatonTooLarge(limit: tableLimit) }
        let successors = automaton.edges.map { Array(Set($0.map(\.target))) }
        var table = [[UInt64]](repeating: [UInt64](repeating: 0, count: limit / 64 + 1), count: states)
        for state in 0..<states where automaton.accepting[state] { table[state][0] |= 1 }
        for count in stride(from: 1, through: limit, by: 1) {
            for state in 0..<states where successors[state].contains(where: { has(table[$0], count - 1) }) {
                table[state][count >> 6] |= 1 << UInt64(count & 63)
            }
        }
        guard saturates, limit > 0 else { return table }
        // The last bit stands for all larger numbers too: spread it backwards until nothing changes.
        var changed = true
        while changed {
            changed = false
            for state in 0..<states where !has(table[state], limit) {
                if successors[state].contains(where: { has(table[$0], limit) }) {
                    table[state][limit >> 6] |= 1 << UInt64(limit & 63)
                    changed = true
                }
            }
        }
        return table
    }

    private static func has(_ bits: [UInt64], _ index: Int) -> Bool { bits[index >> 6] >> UInt64(index & 63) & 1 != 0 }

    private static func holds(_ bits: [UInt64], from low: Int, to high: Int) -> Bool {
        guard low <= high else { return false }
        for word in (low >> 6)...(high >> 6) {
            var value = bits[word]
            if word == low >> 6 { value &= .max << UInt64(low & 63) }
            if word == high >> 6 { value &= .max >> UInt64(63 - high & 63) }
            if value != 0 { return true }
        }
        return false
    }

    // MARK: States

    /// How far the next character has come. `value` holds what its digits or bytes have said so far.
    private enum Phase: UInt64 {
        case quote, between, closed, escape
        case utf8One, utf8Two, utf8Three
        case hex0, hex1, hex2, hex3
        case lowBackslash, lowU, low0, low1, low2, low3
    }

    private struct State {
        var phase: Phase
        var automaton: Int
        var count: Int
        var value: UInt32

        init(_ phase: Phase, automaton: Int = 0, count: Int = 0, value: UInt32 = 0) {
            self.phase = phase
            self.automaton = automaton
            self.count = count
            self.value = value
        }

        init(_ bits: UInt64) {
            phase = Phase(rawValue: bits & 31)!
            value = UInt32(bits >> 5 & 0x1FFFFF)
            count = Int(bits >> 26 & 0x3FFFFF)
            automaton = Int(bits >> 48)
        }

        /// The same where any character may come: of what was read of one, only what decides which bytes may follow is kept,
        /// so that there are few states.
        var simplified: State {
            switch phase {
            case .quote, .between, .closed, .escape, .hex0: self
            case .utf8One: with(phase, 2)
            // E0 and ED, F0 and F4 restrict the byte behind them; 16 stands for the second byte of four.
            case .utf8Two: with(phase, value == 0 || value == 13 ? value : value < 16 ? 1 : 16)
            case .utf8Three: with(phase, value == 0 || value == 4 ? value : 1)
            case .hex1: with(phase, value == 0xD ? value : 1)
            case .hex2: with(phase, value & 0xFC == 0xD8 ? 0xD8 : 1)
            case .hex3: with(phase, value & 0xFC0 == 0xD80 ? 0xD80 : 1)
            case .lowBackslash, .lowU, .low0, .low1, .low2, .low3: with(phase, 0)
            }
        }

        var bits: UInt64 { phase.rawValue | UInt64(value) << 5 | UInt64(count) << 26 | UInt64(automaton) << 48 }

        func with(_ phase: Phase, _ value: UInt32 = 0) -> State {
            State(phase, automaton: automaton, count: count, value: value)
        }
    }

    /// The state before the opening quote.
    var start: UInt64 { State(.quote).bits }

    /// Whether the string is closed.
    func isAccepting(_ state: UInt64) -> Bool { State(state).phase == .closed }

    /// A state that allows the same next `horizon` bytes and is the same for most lengths.
    func representative(_ bits: UInt64, horizon: Int) -> UInt64 {
        guard isUniversal else { return bits }
        var state = State(bits)
        let room = maxLength.map { $0 - state.count } ?? .max
        guard room > horizon else { return bits }
        if minLength - state.count > horizon {
            state.count = 0
        } else if state.count >= minLength {
            state.count = minLength
        }
        return state.bits
    }

    /// The state after a byte, or nil where the byte may not come.
    func step(_ bits: UInt64, _ byte: UInt8) -> UInt64? {
        let next = exactStep(bits, byte)
        return isUniversal ? next.map { State($0).simplified.bits } : next
    }

    private func exactStep(_ bits: UInt64, _ byte: UInt8) -> UInt64? {
        let state = State(bits)
        switch state.phase {
        case .quote: return byte == 0x22 ? state.with(.between).bits : nil
        case .closed: return nil
        case .between: return begin(state, byte)
        case .escape: return escaped(state, byte)
        case .utf8One, .utf8Two, .utf8Three: return continued(state, byte)
        case .hex0, .hex1, .hex2, .hex3: return hexadecimal(state, byte)
        case .lowBackslash: return byte == 0x5C ? state.with(.lowU, state.value).bits : nil
        case .lowU: return byte == 0x75 ? state.with(.low0, state.value).bits : nil
        case .low0, .low1, .low2, .low3: return lowSurrogate(state, byte)
        }
    }

    private func begin(_ state: State, _ byte: UInt8) -> UInt64? {
        switch byte {
        case 0x22:
            let fits = automaton.accepting[state.automaton] && state.count >= minLength
            return fits ? State(.closed).bits : nil
        case 0x5C: return canTake(state, 0...0x10FFFF) ? state.with(.escape).bits : nil
        case 0x20...0x7F: return take(state, UInt32(byte))
        case 0xC2...0xDF: return partial(state, .utf8One, UInt32(byte & 0x1F), bits: 6, from: 0x80)
        case 0xE0...0xEF: return partial(state, .utf8Two, UInt32(byte & 0x0F), bits: 12, from: 0x800)
        case 0xF0...0xF4: return partial(state, .utf8Three, UInt32(byte & 0x07), bits: 18, from: 0x10000)
        default: return nil
        }
    }

    private func continued(_ state: State, _ byte: UInt8) -> UInt64? {
        guard byte & 0xC0 == 0x80 else { return nil }
        let value = state.value << 6 | UInt32(byte & 0x3F)
        switch state.phase {
        case .utf8Three: return partial(state, .utf8Two, value, bits: 12, from: 0x10000)
        // After the lead of three bytes the value is below 16; after two of four bytes it is not.
        case .utf8Two: return partial(state, .utf8One, value, bits: 6, from: state.value < 16 ? 0x800 : 0x10000)
        default: return take(state, value)
        }
    }

    private func escaped(_ state: State, _ byte: UInt8) -> UInt64? {
        switch byte {
        case 0x22, 0x2F, 0x5C: return take(state, UInt32(byte))
        case 0x62: return take(state, 0x08)
        case 0x66: return take(state, 0x0C)
        case 0x6E: return take(state, 0x0A)
        case 0x72: return take(state, 0x0D)
        case 0x74: return take(state, 0x09)
        case 0x75: return state.with(.hex0).bits
        default: return nil
        }
    }

    private func hexadecimal(_ state: State, _ byte: UInt8) -> UInt64? {
        guard let digit = Self.hexDigit(byte) else { return nil }
        let value = state.value << 4 | digit
        switch state.phase {
        case .hex0:
            return digit == 0xD ? surrogatesOr(state, .hex1, value, bits: 12) : partial(state, .hex1, value, bits: 12)
        case .hex1: return surrogatesOr(state, .hex2, value, bits: 8)
        case .hex2: return surrogatesOr(state, .hex3, value, bits: 4)
        default:
            guard value >= 0xD800, value <= 0xDFFF else { return take(state, value) }
            guard value < 0xDC00, canTake(state, Self.supplementary(of: value - 0xD800, bits: 10)) else { return nil }
            return state.with(.lowBackslash, value - 0xD800).bits
        }
    }

    /// A beginning of four digits that may be a character or the high half of a pair.
    private func surrogatesOr(_ state: State, _ phase: Phase, _ value: UInt32, bits: UInt32) -> UInt64? {
        if let plain = partial(state, phase, value, bits: bits) { return plain }
        let low = max(value << bits, 0xD800)
        let high = min(value << bits | (1 << bits - 1), 0xDBFF)
        guard low <= high else { return nil }
        let first = 0x10000 + (low - 0xD800) << 10
        let last = 0x10000 + (high - 0xD800) << 10 | 0x3FF
        return canTake(state, first...last) ? state.with(phase, value).bits : nil
    }

    private func lowSurrogate(_ state: State, _ byte: UInt8) -> UInt64? {
        guard let digit = Self.hexDigit(byte) else { return nil }
        switch state.phase {
        case .low0: return digit == 0xD ? state.with(.low1, state.value).bits : nil
        case .low1:
            guard digit >= 0xC else { return nil }
            return lowPart(state, .low2, state.value << 2 | (digit - 0xC), bits: 8)
        case .low2: return lowPart(state, .low3, state.value << 4 | digit, bits: 4)
        default: return take(state, 0x10000 + state.value << 4 | digit)
        }
    }

    private func lowPart(_ state: State, _ phase: Phase, _ value: UInt32, bits: UInt32) -> UInt64? {
        let range = Self.supplementary(of: value, bits: bits)
        return canTake(state, range) ? state.with(phase, value).bits : nil
    }

    /// The characters of surrogate pairs whose first bits are given, `bits` of them being open.
    private static func supplementary(of value: UInt32, bits: UInt32) -> ClosedRange<UInt32> {
        let first = 0x10000 + value << bits
        return first...(first + (1 << bits - 1))
    }

    /// A character of which `bits` are open: possible where some character not below `least` is.
    private func partial(
        _ state: State, _ phase: Phase, _ value: UInt32, bits: UInt32, from least: UInt32 = 0
    ) -> UInt64? {
        let low = max(value << bits, least)
        let high = value << bits | (1 << bits - 1)
        guard low <= high, canTake(state, low...high) else { return nil }
        return state.with(phase, value).bits
    }

    /// Whether some character of a range may come.
    private func canTake(_ state: State, _ range: ClosedRange<UInt32>) -> Bool {
        for edge in automaton.edges[state.automaton] {
            if edge.range.lowerBound > range.upperBound { break }
            if edge.range.overlaps(range), canGoOn(edge.target, counted(state.count)) { return true }
        }
        return false
    }

    private func take(_ state: State, _ scalar: UInt32) -> UInt64? {
        let count = counted(state.count)
        guard let target = automaton.step(state.automaton, scalar), canGoOn(target, count) else { return nil }
        return State(.between, automaton: target, count: count).bits
    }

    private func counted(_ count: Int) -> Int { maxLength == nil ? min(count + 1, minLength) : count + 1 }

    /// Whether a string that has come so far can still end within its length.
    private func canGoOn(_ state: Int, _ count: Int) -> Bool {
        if let maxLength, count > maxLength { return false }
        guard !remaining.isEmpty else { return true }
        return Self.holds(
            remaining[state], from: max(minLength - count, 0), to: maxLength.map { $0 - count } ?? minLength)
    }

    private static func hexDigit(_ byte: UInt8) -> UInt32? {
        switch byte {
        case 0x30...0x39: UInt32(byte) - 48
        case 0x41...0x46: UInt32(byte) - 55
        case 0x61...0x66: UInt32(byte) - 87
        default: nil
        }
    }
}
