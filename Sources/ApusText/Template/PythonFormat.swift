#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// How a value is laid out: what stands after the colon in `"{:>8.2f}"` and after the sign in `"%-8.2f"`.
struct PythonFormat {
    var fill: Unicode.Scalar = " "
    var alignment: Unicode.Scalar?
    var sign: Unicode.Scalar = "-"
    var isAlternate = false
    var width = 0
    var grouping: Unicode.Scalar?
    var precision: Int?
    var type: Unicode.Scalar?

    /// Parses a format specification; nil where it is none.
    init?(_ text: String) {
        var rest = Array(text.unicodeScalars)[...]
        let alignments: [Unicode.Scalar] = ["<", ">", "=", "^"]
        if rest.count > 1, alignments.contains(rest[1]) {
            fill = rest[0]
            alignment = rest[1]
            rest = rest.dropFirst(2)
        } else if let first = rest.first, alignments.contains(first) {
            alignment = first
            rest = rest.dropFirst()
        }
        if let first = rest.first, ["+", "-", " "].contains(first) {
            sign = first
            rest = rest.dropFirst()
        }
        if rest.first == "#" {
            isAlternate = true
            rest = rest.dropFirst()
        }
        if rest.first == "0" {
            if alignment == nil {
                fill = "0"
                alignment = "="
            }
            rest = rest.dropFirst()
        }
        guard let width = Self.number(&rest) else { return nil }
        self.width = width ?? 0
        if let first = rest.first, first == "," || first == "_" {
            grouping = first
            rest = rest.dropFirst()
        }
        if rest.first == "." {
            rest = rest.dropFirst()
            guard case .some(.some(let precision)) = Self.number(&rest) else { return nil }
            self.precision = precision
        }
        type = rest.popFirst()
        guard rest.isEmpty else { return nil }
    }

    init() {}

    /// Reads digits: nil inside where there are none, nil outside where they are too many.
    static func number(_ rest: inout ArraySlice<Unicode.Scalar>) -> Int?? {
        let digits = rest.prefix { $0.isASCIIDigit }
        guard digits.count <= 6 else { return nil }
        rest = rest.dropFirst(digits.count)
        return .some(Int(String(digits)))
    }

    /// Writes `text` in the width; numbers align right unless told otherwise, text left.
    private func padded(_ text: String, sign: String = "", isNumber: Bool) -> String {
        let missing = width - sign.unicodeScalars.count - text.unicodeScalars.count
        guard missing > 0 else { return sign + text }
        let filling = { (count: Int) in String(repeating: String(fill), count: count) }
        switch alignment ?? (isNumber ? ">" : "<") {
        case "<": return sign + text + filling(missing)
        case ">": return filling(missing) + sign + text
        case "^": return filling(missing / 2) + sign + text + filling(missing - missing / 2)
        default: return sign + filling(missing) + text
        }
    }

    private func signText(isNegative: Bool) -> String { isNegative ? "-" : sign == "-" ? "" : String(sign) }

    /// A string by the format, or nil where the format is for numbers.
    func string(_ text: String) -> String? {
        guard type == nil || type == "s", grouping == nil, alignment != "=" || fill == "0" else { return nil }
        let cut = precision.map { String(text.unicodeScalars.prefix($0)) } ?? text
        var format = self
        if alignment == "=" { format.alignment = "<" }
        return format.padded(cut, isNumber: false)
    }

    /// An integer by the format, or nil where the format is for something else.
    func integer(_ value: Int) -> String? {
        let radix: Int
        switch type {
        case nil, "d", "i", "u", "n": radix = 10
        case "x", "X": radix = 16
        case "o": radix = 8
        case "b": radix = 2
        case "e", "E", "f", "F", "g", "G", "%": return double(Double(value))
        case "c":
            guard let scalar = UInt32(exactly: value).flatMap(Unicode.Scalar.init) else { return nil }
            return padded(String(scalar), isNumber: false)
        default: return nil
        }
        var digits = String(value.magnitude, radix: radix, uppercase: type == "X")
        if let precision, digits.utf8.count < precision {
            digits = String(repeating: "0", count: precision - digits.utf8.count) + digits
        }
        digits = grouped(digits, by: radix == 10 ? 3 : 4)
        if isAlternate, let type, radix != 10 { digits = "0\(type)" + digits }
        return padded(digits, sign: signText(isNegative: value < 0), isNumber: true)
    }

    /// A double by the format, or nil where the format is for something else.
    func double(_ value: Double) -> String? {
        let conversion: Unicode.Scalar
        var number = value.magnitude
        var digits: String
        switch type {
        case nil where precision == nil: conversion = "r"
        case nil, "g", "n": conversion = "g"
        case "G", "e", "E", "f", "F": conversion = type ?? "g"
        case "%":
            conversion = "f"
            number *= 100
        default: return nil
        }
        if conversion == "r" {
            digits = number.pythonRepr
        } else {
            digits = Self.print(number, precision ?? 6, conversion)
            // A general format without a type keeps one digit after the point.
            if type == nil, number.isFinite, !digits.contains("."), !digits.contains("e") { digits += ".0" }
        }
        if grouping != nil {
            let end = digits.firstIndex { !$0.isNumber } ?? digits.endIndex
            digits = grouped(String(digits[..<end]), by: 3) + digits[end...]
        }
        if type == "%" { digits += "%" }
        let isNegative = value.sign == .minus && !value.isNaN
        return padded(digits, sign: signText(isNegative: isNegative), isNumber: true)
    }

    private func grouped(_ digits: String, by size: Int) -> String {
        guard let grouping else { return digits }
        var result = ""
        for (index, digit) in digits.enumerated() {
            if index > 0, (digits.count - index) % size == 0 { result.unicodeScalars.append(grouping) }
            result.append(digit)
        }
        return result
    }

    /// C's `printf` of one double; `conversion` is one of e, f, g and their capitals.
    private static func print(_ value: Double, _ precision: Int, _ conversion: Unicode.Scalar) -> String {
        let precision = min(precision, 400)
        var buffer = [CChar](repeating: 0, count: 800)
        let length = withVaList([CInt(precision), value]) {
            vsnprintf(&buffer, buffer.count, "%.*\(conversion)", $0)
        }
        return String(decoding: buffer.prefix(Int(length)).map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// Python's `round(value, digits)`: the nearest decimal, exact ties to even.
    static func rounded(_ value: Double, _ digits: Int) -> Double { Double(print(value, digits, "f")) ?? value }
}

extension TemplateInterpreter {
    /// `format % value`.
    func formatPercent(_ format: String, _ value: TemplateValue) throws(TemplateError) -> String {
        try charge(bytes: 8 * format.utf8.count)
        var rest = Array(format.unicodeScalars)[...]
        var arguments: ArraySlice<TemplateValue> = [value]
        if case .tuple(let tuple) = value { arguments = tuple.items[...] }
        var usesNames = false
        var result = ""
        while let scalar = rest.popFirst() {
            guard scalar == "%" else {
                result.unicodeScalars.append(scalar)
                continue
            }
            var name: String?
            if rest.first == "(" {
                let inside = rest.dropFirst().prefix { $0 != ")" }
                name = String(inside)
                rest = rest.dropFirst(inside.count + 2)
            }
            var layout = PythonFormat()
            while let flag = rest.first, ["-", "+", " ", "0", "#"].contains(flag) {
                switch flag {
                case "-": layout.alignment = "<"
                case "0":
                    layout.fill = "0"
                    if layout.alignment == nil { layout.alignment = "=" }
                case "#": layout.isAlternate = true
                default: if layout.sign != "+" { layout.sign = flag }
                }
                rest = rest.dropFirst()
            }
            if layout.alignment == "<" { layout.fill = " " }
            guard let width = PythonFormat.number(&rest) else { throw fail("the width of a format is too large") }
            layout.width = width ?? 0
            if rest.first == "." {
                rest = rest.dropFirst()
                guard let precision = PythonFormat.number(&rest) else {
                    throw fail("the precision of a format is too large")
                }
                layout.precision = precision ?? 0
            }
            guard let conversion = rest.popFirst() else { throw fail("a format ends inside a conversion") }
            if conversion == "%" {
                result += "%"
                continue
            }
            let argument: TemplateValue
            if let name {
                guard case .dictionary(let dictionary) = value, let found = dictionary[name] else {
                    throw fail("the format needs a key '\(name)'")
                }
                usesNames = true
                argument = found
            } else {
                guard let next = arguments.popFirst() else { throw fail("not enough arguments for the format") }
                argument = next
            }
            layout.type = conversion
            try charge(bytes: layout.width + (layout.precision ?? 0) + 32)
            result += try percentText(argument, layout)
        }
        var isLeftOver = !arguments.isEmpty && !usesNames
        if case .dictionary = value { isLeftOver = false }
        if isLeftOver { throw fail("not all arguments of the format were used") }
        return result
    }

    private func percentText(_ value: TemplateValue, _ layout: PythonFormat) throws(TemplateError) -> String {
        var layout = layout
        let conversion = layout.type ?? "s"
        switch conversion {
        case "s", "r", "a":
            layout.type = nil
            // The zero flag does nothing for text.
            if layout.alignment != "<" {
                layout.alignment = ">"
                layout.fill = " "
            }
            let text = try conversion == "s" ? printed(value) : represented(value)
            return layout.string(text) ?? text
        case "d", "i", "u":
            guard let number = value.number, number.isFinite else { throw refusal("%\(conversion) of", value) }
            guard let whole = value.integer ?? Int(exactly: number.rounded(.towardZero)) else {
                throw fail("integers are limited to 64 bits")
            }
            layout.type = "d"
            return layout.integer(whole) ?? ""
        case "x", "X", "o":
            guard let number = value.integer, let text = layout.integer(number) else {
                throw refusal("%\(conversion) of", value)
            }
            return text
        case "c":
            layout.precision = nil
            if let text = value.text, text.unicodeScalars.count == 1 {
                layout.type = nil
                layout.alignment = layout.alignment ?? ">"
                return layout.string(text) ?? text
            }
            layout.alignment = layout.alignment ?? ">"
            guard let code = value.integer, let text = layout.integer(code) else { throw refusal("%c of", value) }
            return text
        case "e", "E", "f", "F", "g", "G":
            guard let number = value.number, let text = layout.double(number) else {
                throw refusal("%\(conversion) of", value)
            }
            return text
        default: throw fail("'%\(conversion)' is no format")
        }
    }

    /// `template.format(...)`.
    func format(_ template: String, _ arguments: TemplateArguments) throws(TemplateError) -> String {
        var rest = Array(template.unicodeScalars)[...]
        var nextIndex = 0
        var result = ""
        while let scalar = rest.popFirst() {
            if scalar == "}" {
                guard rest.popFirst() == "}" else { throw fail("a single '}' in a format") }
                result += "}"
            } else if scalar != "{" {
                result.unicodeScalars.append(scalar)
            } else if rest.first == "{" {
                rest = rest.dropFirst()
                result += "{"
            } else {
                let field = rest.prefix { $0 != "}" }
                guard field.count < rest.count else { throw fail("a '{' in a format is not closed") }
                guard !field.contains("{") else { throw .unsupported(construct: "a nested format field", at: place) }
                rest = rest.dropFirst(field.count + 1)
                result += try formatField(String(field), arguments, &nextIndex)
            }
        }
        return result
    }

    private func formatField(
        _ field: String, _ arguments: TemplateArguments, _ nextIndex: inout Int
    ) throws(TemplateError) -> String {
        let parts = field.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
        let head = parts[0].split(separator: "!", maxSplits: 1, omittingEmptySubsequences: false)
        var value = try formatArgument(String(head[0]), arguments, &nextIndex)
        if head.count > 1 {
            switch head[1] {
            case "s": value = .string(try printed(value))
            case "r": value = .string(try represented(value))
            default: throw .unsupported(construct: "the conversion '!\(head[1])'", at: place)
            }
        }
        let specification = parts.count > 1 ? String(parts[1]) : ""
        if specification.isEmpty { return try printed(value) }
        guard let layout = PythonFormat(specification) else { throw fail("'\(specification)' is no format") }
        try charge(bytes: layout.width + (layout.precision ?? 0) + 32)
        let text =
            switch value {
            case .string(let text), .markup(let text): layout.string(text)
            case .double(let number): layout.double(number)
            case .undefined: layout.string("")
            case .bool(let flag) where layout.type == nil: layout.string(flag ? "True" : "False")
            default:
                // Python refuses a precision for integers.
                value.integer.flatMap { layout.precision != nil && layout.double(1) == nil ? nil : layout.integer($0) }
            }
        guard let text else { throw refusal("the format '\(specification)' for", value) }
        return text
    }

    /// The argument that a field names: a number, a name, or nothing, then `.attribute` and `[element]`.
    private func formatArgument(
        _ name: String, _ arguments: TemplateArguments, _ nextIndex: inout Int
    ) throws(TemplateError) -> TemplateValue {
        guard !name.contains(where: { $0 == "." || $0 == "[" }) else {
            throw .unsupported(construct: "a format field with an attribute or an element", at: place)
        }
        if name.isEmpty || name.utf8.allSatisfy({ $0 >= 0x30 && $0 <= 0x39 }) {
            let index = Int(name) ?? nextIndex
            if name.isEmpty { nextIndex += 1 }
            guard arguments.positional.indices.contains(index) else {
                throw fail("not enough arguments for the format")
            }
            return arguments.positional[index]
        }
        guard let argument = arguments.keyword.first(where: { $0.name == name }) else {
            throw fail("the format needs an argument '\(name)'")
        }
        return argument.value
    }
}
