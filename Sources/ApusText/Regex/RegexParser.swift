/// Why a regular expression cannot be compiled.
struct RegexError: Error {
    var reason: String
}

/// Parses the part of Oniguruma's syntax that tokenizers use: alternatives, groups, `(?i:`, look-ahead, look-behind of
/// one character, classes with \p{...}, greedy, lazy and possessive repetition, line anchors.
struct RegexParser {
    private let scalars: [Unicode.Scalar]
    private var index = 0
    private var foldsCase = false
    private var depth = 0

    private static let depthLimit = 40
    private static let repetitionLimit = 1000

    init(_ pattern: String) { scalars = Array(pattern.unicodeScalars) }

    mutating func parse() throws(RegexError) -> RegexNode {
        let node = try parseAlternatives()
        guard index == scalars.count else { throw RegexError(reason: "an unmatched ')' at character \(index)") }
        return node
    }

    private var peek: Unicode.Scalar? { index < scalars.count ? scalars[index] : nil }

    private mutating func take(_ scalar: Unicode.Scalar) -> Bool {
        guard peek == scalar else { return false }
        index += 1
        return true
    }

    private mutating func next() throws(RegexError) -> Unicode.Scalar {
        guard let scalar = peek else { throw RegexError(reason: "the pattern ends too early") }
        index += 1
        return scalar
    }

    private mutating func parseAlternatives() throws(RegexError) -> RegexNode {
        depth += 1
        defer { depth -= 1 }
        guard depth <= Self.depthLimit else {
            throw RegexError(reason: "groups nested more than \(Self.depthLimit) deep")
        }
        var alternatives = [try parseSequence()]
        while take("|") { alternatives.append(try parseSequence()) }
        return alternatives.count == 1 ? alternatives[0] : .alternatives(alternatives)
    }

    private mutating func parseSequence() throws(RegexError) -> RegexNode {
        var nodes: [RegexNode] = []
        while let scalar = peek, scalar != "|", scalar != ")" {
            let atom = try parseAtom()
            nodes.append(try parseQuantifiers(atom))
        }
        return nodes.isEmpty ? .empty : nodes.count == 1 ? nodes[0] : .sequence(nodes)
    }

    private mutating func parseQuantifiers(_ atom: RegexNode) throws(RegexError) -> RegexNode {
        let bounds: (min: Int, max: Int?)
        var allowsPossessive = true
        if take("*") {
            bounds = (0, nil)
        } else if take("+") {
            bounds = (1, nil)
        } else if take("?") {
            bounds = (0, 1)
        } else if peek == "{" {
            bounds = try parseBounds()
            allowsPossessive = false
        } else {
            return atom
        }
        var greed = RegexNode.Greed.greedy
        if take("?") {
            greed = .lazy
        } else if peek == "+" {
            guard allowsPossessive else { throw RegexError(reason: "'+' after '{...}'") }
            index += 1
            greed = .possessive
        }
        if let scalar = peek, "*+?{".unicodeScalars.contains(scalar) {
            throw RegexError(reason: "a repetition of a repetition at character \(index)")
        }
        if bounds.max != 1, atom.isNullable {
            throw RegexError(reason: "a repeated part that can be empty before character \(index)")
        }
        return .repetition(atom, min: bounds.min, max: bounds.max, greed)
    }

    private mutating func parseBounds() throws(RegexError) -> (min: Int, max: Int?) {
        let start = index
        index += 1
        let min = parseNumber()
        var max = min
        if take(",") { max = parseNumber() }
        guard let lower = min, take("}"), lower <= Self.repetitionLimit, (max ?? lower) >= lower,
            (max ?? 0) <= Self.repetitionLimit
        else { throw RegexError(reason: "a repetition count at character \(start)") }
        return (lower, max)
    }

    private mutating func parseNumber() -> Int? {
        var value: Int?
        while let scalar = peek, scalar.value >= 48, scalar.value <= 57 {
            value = Swift.min((value ?? 0) * 10 + Int(scalar.value - 48), Self.repetitionLimit + 1)
            index += 1
        }
        return value
    }

    private mutating func parseAtom() throws(RegexError) -> RegexNode {
        let scalar = try next()
        switch scalar {
        case "(": return try parseGroup()
        case "[": return .set(try parseClass())
        case ".":
            var set = CharacterSet()
            set.insert(0x0A...0x0A)
            set.invert()
            return .set(sealed(set))
        case "^": return .anchor(.lineStart)
        case "$": return .anchor(.lineEnd)
        case "\\":
            if take("A") { return .anchor(.textStart) }
            if take("z") { return .anchor(.textEnd) }
            return .set(sealed(try parseEscape()))
        case "*", "+", "?": throw RegexError(reason: "a repetition of nothing at character \(index - 1)")
        default: return .set(sealed(single(scalar)))
        }
    }

    private func sealed(_ set: CharacterSet) -> CharacterSet {
        var set = set
        set.seal()
        return set
    }

    private mutating func parseGroup() throws(RegexError) -> RegexNode {
        let outerFold = foldsCase
        defer { foldsCase = outerFold }
        var wrap: (RegexNode) -> RegexNode = { $0 }
        if take("?") {
            let kind = try next()
            switch kind {
            case ":": break
            case "=": wrap = { .look($0, isAhead: true, isNegative: false) }
            case "!": wrap = { .look($0, isAhead: true, isNegative: true) }
            case ">": wrap = { .atomic($0) }
            case "i":
                guard take(":") else { throw RegexError(reason: "an option that is not '(?i:'") }
                foldsCase = true
            case "<":
                let sign = try next()
                guard sign == "=" || sign == "!" else { throw RegexError(reason: "a named group") }
                wrap = { .look($0, isAhead: false, isNegative: sign == "!") }
            default: throw RegexError(reason: "a group '(?\(kind)'")
            }
        }
        let node = try parseAlternatives()
        guard take(")") else { throw RegexError(reason: "a '(' without ')'") }
        let wrapped = wrap(node)
        if case .look(let inner, false, _) = wrapped {
            guard case .set = inner else { throw RegexError(reason: "a look-behind of more than one character") }
        }
        return wrapped
    }

    /// A set of one scalar, or of its case variants where case is ignored.
    private func single(_ scalar: Unicode.Scalar) -> CharacterSet {
        var set = CharacterSet()
        insert(scalar.value...scalar.value, into: &set)
        return set
    }

    private func insert(_ range: ClosedRange<UInt32>, into set: inout CharacterSet) {
        set.insert(range)
        guard foldsCase else { return }
        for scalar in range.clamped(to: 0x41...0x7A) {
            guard scalar <= 0x5A || scalar >= 0x61, range.contains(scalar) else { continue }
            set.insert((scalar ^ 0x20)...(scalar ^ 0x20))
            // The long s and the Kelvin sign fold to ASCII letters.
            if scalar | 0x20 == 0x73 { set.insert(0x17F...0x17F) }
            if scalar | 0x20 == 0x6B { set.insert(0x212A...0x212A) }
        }
    }

    /// The set of the escape whose backslash has been read.
    private mutating func parseEscape() throws(RegexError) -> CharacterSet {
        let scalar = try next()
        var set = CharacterSet()
        switch scalar {
        case "n": set.insert(0x0A...0x0A)
        case "r": set.insert(0x0D...0x0D)
        case "t": set.insert(0x09...0x09)
        case "f": set.insert(0x0C...0x0C)
        case "v": set.insert(0x0B...0x0B)
        case "x", "u":
            let value = try parseHex(scalar)
            insert(value...value, into: &set)
        case "s", "S": set.insert(ClassSet.space)
        case "d", "D": set.insert(ClassSet("Nd")!)
        case "w", "W": set.insert(CharacterSet.regexWord)
        case "p", "P":
            guard !foldsCase else { throw RegexError(reason: "a property where case is ignored") }
            if try parseProperty(into: &set) { set.invert() }
        default:
            guard !scalar.properties.isAlphabetic, !(48...57).contains(scalar.value) else {
                throw RegexError(reason: "the escape '\\\(scalar)'")
            }
            insert(scalar.value...scalar.value, into: &set)
        }
        if "SDWP".unicodeScalars.contains(scalar) { set.invert() }
        return set
    }

    private mutating func parseHex(_ kind: Unicode.Scalar) throws(RegexError) -> UInt32 {
        var digits = ""
        if take("{") {
            while let scalar = peek, scalar != "}" {
                digits.unicodeScalars.append(scalar)
                index += 1
            }
            index += 1
        } else {
            for _ in 0..<(kind == "x" ? 2 : 4) { digits.unicodeScalars.append(try next()) }
        }
        guard let value = UInt32(digits, radix: 16), Unicode.Scalar(value) != nil else {
            throw RegexError(reason: "the escape '\\\(kind)\(digits)'")
        }
        return value
    }

    /// Reads `{Lu}` or `{^Lu}` into `set`; returns whether it is negated.
    private mutating func parseProperty(into set: inout CharacterSet) throws(RegexError) -> Bool {
        guard take("{") else { throw RegexError(reason: "a property without braces") }
        let isNegative = take("^")
        var name = ""
        while let scalar = peek, scalar != "}" {
            name.unicodeScalars.append(scalar)
            index += 1
        }
        guard take("}") else { throw RegexError(reason: "a property without '}'") }
        if let script = Self.scripts[name] {
            for range in script { set.insert(range) }
            return isNegative
        }
        guard !name.isEmpty, let classes = ClassSet(name) else { throw RegexError(reason: "the property '\(name)'") }
        set.insert(classes)
        return isNegative
    }

    /// Scripts that patterns name, as ranges.
    private static let scripts: [String: [ClosedRange<UInt32>]] = [
        "Han": [
            0x2E80...0x2E99, 0x2E9B...0x2EF3, 0x2F00...0x2FD5, 0x3005...0x3005, 0x3007...0x3007, 0x3021...0x3029,
            0x3038...0x303B, 0x3400...0x4DBF, 0x4E00...0x9FFF, 0xF900...0xFA6D, 0xFA70...0xFAD9, 0x16FE2...0x16FE3,
            0x16FF0...0x16FF1, 0x20000...0x2A6DF, 0x2A700...0x2B739, 0x2B740...0x2B81D, 0x2B820...0x2CEA1,
            0x2CEB0...0x2EBE0, 0x2EBF0...0x2EE5D, 0x2F800...0x2FA1D, 0x30000...0x3134A, 0x31350...0x323AF,
        ]
    ]

    /// The set of the class whose '[' has been read.
    private mutating func parseClass() throws(RegexError) -> CharacterSet {
        var set = CharacterSet()
        let isNegative = take("^")
        var isFirst = true
        while true {
            let scalar = try next()
            if scalar == "]", !isFirst { break }
            isFirst = false
            if scalar == "[" {
                guard peek != ":" else { throw RegexError(reason: "a POSIX class") }
                depth += 1
                guard depth <= Self.depthLimit else { throw RegexError(reason: "classes nested too deep") }
                set.insert(try parseClass())
                depth -= 1
                continue
            }
            if scalar == "&", peek == "&" { throw RegexError(reason: "an intersection of classes") }
            var lower = scalar
            if scalar == "\\" {
                guard let literal = literalEscape() else {
                    set.insert(try parseEscape())
                    continue
                }
                lower = literal
            }
            guard peek == "-", index + 1 < scalars.count, scalars[index + 1] != "]" else {
                insert(lower.value...lower.value, into: &set)
                continue
            }
            index += 1
            var upper = try next()
            if upper == "\\" {
                guard let literal = literalEscape() else { throw RegexError(reason: "a range that ends in a class") }
                upper = literal
            }
            guard upper >= lower else { throw RegexError(reason: "an empty range before character \(index)") }
            insert(lower.value...upper.value, into: &set)
        }
        if isNegative { set.invert() }
        return sealed(set)
    }

    /// The scalar of an escape that stands for one, whose backslash has been read; nil leaves the place unchanged.
    private mutating func literalEscape() -> Unicode.Scalar? {
        guard let scalar = peek else { return nil }
        let start = index
        index += 1
        switch scalar {
        case "n": return "\n"
        case "r": return "\r"
        case "t": return "\t"
        case "x", "u":
            if let value = try? parseHex(scalar) { return Unicode.Scalar(value) }
        default: if !scalar.properties.isAlphabetic, !(48...57).contains(scalar.value) { return scalar }
        }
        index = start
        return nil
    }
}
