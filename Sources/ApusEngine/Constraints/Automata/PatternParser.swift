/// Why a pattern cannot be made into an automaton.
struct PatternError: Error {
    let reason: String
}

/// Parses the regular part of ECMA-262's patterns, as JSON Schema uses them, into the language of all texts that hold a
/// match: alternatives, groups, classes, repetition, `^` and `$` at the ends. Escapes `\d`, `\w` mean ASCII, as there.
struct PatternParser {
    private let scalars: [Unicode.Scalar]
    private var index = 0
    private var depth = 0

    private static let depthLimit = 64
    private static let repetitionLimit = 4096

    /// A part of a pattern and whether it is tied to the beginning and to the end of the text.
    private struct Part {
        var expression: RegularExpression
        var isAnchoredAtStart = false
        var isAnchoredAtEnd = false
        var isBare = false
    }

    /// The texts in which `pattern` matches somewhere.
    static func language(of pattern: String) throws(PatternError) -> RegularExpression {
        var parser = PatternParser(scalars: Array(pattern.unicodeScalars))
        let branches = try parser.parseBranches()
        guard parser.index == parser.scalars.count else {
            throw PatternError(reason: "an unmatched ')' at character \(parser.index)")
        }
        return .alternatives(
            branches.map { branch in
                .sequence(
                    (branch.isAnchoredAtStart ? [] : [.any]) + [branch.expression]
                        + (branch.isAnchoredAtEnd ? [] : [.any]))
            })
    }

    private init(scalars: [Unicode.Scalar]) { self.scalars = scalars }

    private var peek: Unicode.Scalar? { index < scalars.count ? scalars[index] : nil }

    private mutating func take(_ scalar: Unicode.Scalar) -> Bool {
        guard peek == scalar else { return false }
        index += 1
        return true
    }

    private mutating func next() throws(PatternError) -> Unicode.Scalar {
        guard let scalar = peek else { throw PatternError(reason: "the pattern ends too early") }
        index += 1
        return scalar
    }

    private mutating func parseBranches() throws(PatternError) -> [Part] {
        depth += 1
        defer { depth -= 1 }
        guard depth <= Self.depthLimit else {
            throw PatternError(reason: "groups nested more than \(Self.depthLimit) deep")
        }
        var branches = try parseSequence()
        while take("|") { branches += try parseSequence() }
        return branches
    }

    /// One branch; several where it consists of one group whose branches are anchored differently.
    private mutating func parseSequence() throws(PatternError) -> [Part] {
        var parts: [Part] = []
        var alternatives: [Part]?
        while let scalar = peek, scalar != "|", scalar != ")" {
            if take("^") {
                parts.append(Part(expression: .empty, isAnchoredAtStart: true, isBare: true))
                continue
            }
            if take("$") {
                parts.append(Part(expression: .empty, isAnchoredAtEnd: true, isBare: true))
                continue
            }
            let isFirst = parts.isEmpty
            let atom = try parseAtom()
            let bounds = try parseQuantifier()
            let isAnchored = atom.contains { $0.isAnchoredAtStart || $0.isAnchoredAtEnd }
            if isAnchored, atom.count > 1 || bounds != nil {
                guard isFirst, bounds == nil, peek == nil || peek == "|" || peek == ")" else {
                    throw PatternError(reason: "an anchor inside the pattern, before character \(index)")
                }
                alternatives = atom
                continue
            }
            var part = atom.count == 1 ? atom[0] : Part(expression: .alternatives(atom.map(\.expression)))
            if let bounds { part = Part(expression: .repetition(part.expression, min: bounds.min, max: bounds.max)) }
            parts.append(part)
        }
        if let alternatives { return alternatives }
        return [try joined(parts)]
    }

    /// A sequence of parts; anchors must stand at its ends.
    private func joined(_ parts: [Part]) throws(PatternError) -> Part {
        var result = Part(expression: .empty)
        var expressions: [RegularExpression] = []
        for part in parts {
            if part.isAnchoredAtStart {
                guard expressions.isEmpty else { throw PatternError(reason: "'^' after the beginning") }
                result.isAnchoredAtStart = true
            }
            if result.isAnchoredAtEnd, !(part.isBare && part.isAnchoredAtEnd) {
                throw PatternError(reason: "'$' before the end")
            }
            if !part.isBare { expressions.append(part.expression) }
            if part.isAnchoredAtEnd { result.isAnchoredAtEnd = true }
        }
        result.expression = .sequence(expressions)
        return result
    }

    private mutating func parseQuantifier() throws(PatternError) -> (min: Int, max: Int?)? {
        var bounds: (min: Int, max: Int?)?
        if take("*") {
            bounds = (0, nil)
        } else if take("+") {
            bounds = (1, nil)
        } else if take("?") {
            bounds = (0, 1)
        } else if peek == "{", let counts = try parseCounts() {
            bounds = counts
        }
        guard bounds != nil else { return nil }
        // What is tried first makes no difference to which texts match.
        _ = take("?")
        if let scalar = peek, scalar == "*" || scalar == "+" || scalar == "?" {
            throw PatternError(reason: "a repetition of a repetition at character \(index)")
        }
        return bounds
    }

    /// `{2}`, `{2,}`, `{2,5}`; nil, having read nothing, where the brace is an ordinary character.
    private mutating func parseCounts() throws(PatternError) -> (min: Int, max: Int?)? {
        let start = index
        index += 1
        let min = parseNumber()
        var max = min
        if take(",") { max = parseNumber() }
        guard let min, take("}") else {
            index = start
            return nil
        }
        guard min <= Self.repetitionLimit, (max ?? 0) <= Self.repetitionLimit else {
            throw PatternError(reason: "a repetition of more than \(Self.repetitionLimit)")
        }
        guard (max ?? min) >= min else { throw PatternError(reason: "a repetition count at character \(start)") }
        return (min, max)
    }

    private mutating func parseNumber() -> Int? {
        var value: Int?
        while let scalar = peek, scalar >= "0", scalar <= "9" {
            value = Swift.min((value ?? 0) * 10 + Int(scalar.value - 48), Self.repetitionLimit + 1)
            index += 1
        }
        return value
    }

    /// The branches of an atom; one for anything but a group.
    private mutating func parseAtom() throws(PatternError) -> [Part] {
        let scalar = try next()
        switch scalar {
        case "(": return try parseGroup()
        case "[": return [Part(expression: .set(try parseClass()))]
        case ".":
            let lineEnds = ScalarSet([0x0A...0x0A, 0x0D...0x0D, 0x2028...0x2029])
            return [Part(expression: .set(lineEnds.inverted))]
        case "\\": return [Part(expression: .set(try parseEscape(inClass: false)))]
        case "*", "+", "?": throw PatternError(reason: "a repetition of nothing at character \(index - 1)")
        default: return [Part(expression: .set(ScalarSet(scalar.value)))]
        }
    }

    private mutating func parseGroup() throws(PatternError) -> [Part] {
        if take("?") {
            let kind = try next()
            switch kind {
            case ":": break
            case "<" where peek != "=" && peek != "!":
                while try next() != ">" {}
            case "=", "!", "<": throw PatternError(reason: "a look-around")
            default: throw PatternError(reason: "a group '(?\(kind)'")
            }
        }
        let branches = try parseBranches()
        guard take(")") else { throw PatternError(reason: "a '(' without ')'") }
        return branches
    }
}

// MARK: Classes and escapes

extension PatternParser {
    private static let word = ScalarSet([0x30...0x39, 0x41...0x5A, 0x5F...0x5F, 0x61...0x7A])
    private static let space = ScalarSet([
        0x09...0x0D, 0x20...0x20, 0xA0...0xA0, 0x1680...0x1680, 0x2000...0x200A, 0x2028...0x2029, 0x202F...0x202F,
        0x205F...0x205F, 0x3000...0x3000, 0xFEFF...0xFEFF,
    ])

    /// The set of the class whose '[' has been read.
    private mutating func parseClass() throws(PatternError) -> ScalarSet {
        let isNegative = take("^")
        var set = ScalarSet([])
        while !take("]") {
            let lower = try parseClassMember()
            guard peek == "-", index + 1 < scalars.count, scalars[index + 1] != "]" else {
                set = set.union(lower)
                continue
            }
            index += 1
            let upper = try parseClassMember()
            guard let first = lower.single, let last = upper.single, first <= last else {
                throw PatternError(reason: "a range of characters before character \(index)")
            }
            set = set.union(ScalarSet([first...last]).intersection(.all))
        }
        return isNegative ? set.inverted : set
    }

    private mutating func parseClassMember() throws(PatternError) -> ScalarSet {
        let scalar = try next()
        return scalar == "\\" ? try parseEscape(inClass: true) : ScalarSet(scalar.value)
    }

    /// The set of the escape whose backslash has been read.
    private mutating func parseEscape(inClass: Bool) throws(PatternError) -> ScalarSet {
        let scalar = try next()
        switch scalar {
        case "d": return .digits
        case "D": return ScalarSet.digits.inverted
        case "w": return Self.word
        case "W": return Self.word.inverted
        case "s": return Self.space
        case "S": return Self.space.inverted
        case "t": return ScalarSet(0x09)
        case "n": return ScalarSet(0x0A)
        case "v": return ScalarSet(0x0B)
        case "f": return ScalarSet(0x0C)
        case "r": return ScalarSet(0x0D)
        case "0": return ScalarSet(0)
        case "b" where inClass: return ScalarSet(0x08)
        case "x": return try parseHex(digits: 2)
        case "u":
            if take("{") {
                var text = ""
                while !take("}") { text.unicodeScalars.append(try next()) }
                return try Self.scalar(text)
            }
            return try parseHex(digits: 4)
        case "b", "B": throw PatternError(reason: "a word boundary")
        case "1"..."9", "k": throw PatternError(reason: "a back-reference")
        case "p", "P": throw PatternError(reason: "a Unicode property")
        default:
            let isLetter = ("a"..."z").contains(scalar) || ("A"..."Z").contains(scalar)
            guard !isLetter else { throw PatternError(reason: "the escape '\\\(scalar)'") }
            return ScalarSet(scalar.value)
        }
    }

    private mutating func parseHex(digits: Int) throws(PatternError) -> ScalarSet {
        var text = ""
        for _ in 0..<digits { text.unicodeScalars.append(try next()) }
        return try Self.scalar(text)
    }

    private static func scalar(_ digits: String) throws(PatternError) -> ScalarSet {
        guard let value = UInt32(digits, radix: 16), Unicode.Scalar(value) != nil else {
            throw PatternError(reason: "the character number '\(digits)'")
        }
        return ScalarSet(value)
    }
}

extension ScalarSet {
    /// The only scalar, where there is just one.
    fileprivate var single: UInt32? {
        guard ranges.count == 1, ranges[0].count == 1 else { return nil }
        return ranges[0].lowerBound
    }
}
