/// One token of a template.
struct TemplateToken {
    enum Kind: Equatable {
        case data(String)
        case outputBegin
        case outputEnd
        case blockBegin
        case blockEnd
        case name(String)
        case string(String)
        case integer(Int)
        case double(Double)
        case symbol(String)
        case end
    }

    let kind: Kind
    let place: TemplatePlace

    /// The token in words, for messages.
    var summary: String {
        switch kind {
        case .data: "text"
        case .outputBegin: "'{{'"
        case .outputEnd: "'}}'"
        case .blockBegin: "'{%'"
        case .blockEnd: "'%}'"
        case .name(let name): "'\(name)'"
        case .string: "a string"
        case .integer(let value): "\(value)"
        case .double(let value): "\(value.pythonRepr)"
        case .symbol(let symbol): "'\(symbol)'"
        case .end: "the end of the template"
        }
    }
}

/// Splits a template into text and tags with Jinja's rules for white space, as transformers sets them:
/// `trim_blocks` (the line break after a block tag goes) and `lstrip_blocks` (blanks before a block tag that begins
/// its line go); `-` takes all white space on its side, `+` keeps it.
struct TemplateLexer {
    private let source: [Unicode.Scalar]
    private var position = 0
    private var tokens: [TemplateToken] = []
    private var line: Int32 = 1
    private var lineStart = 0
    private var placed = 0

    /// Whether the last tag's end took a line break, so that the following text begins a line.
    private var beginsLine = true

    static func tokens(of source: String) throws(TemplateError) -> [TemplateToken] {
        var lexer = TemplateLexer(source)
        try lexer.lex()
        return lexer.tokens
    }

    private init(_ text: String) {
        var scalars: [Unicode.Scalar] = []
        scalars.reserveCapacity(text.utf8.count)
        var afterReturn = false
        for scalar in text.unicodeScalars {
            if scalar == "\r" {
                scalars.append("\n")
            } else if !(afterReturn && scalar == "\n") {
                scalars.append(scalar)
            }
            afterReturn = scalar == "\r"
        }
        if scalars.last == "\n" { scalars.removeLast() }
        source = scalars
    }

    private mutating func lex() throws(TemplateError) {
        while position < source.count {
            guard let tag = nextTag(from: position) else {
                addData(position..<source.count)
                break
            }
            let isOutput = source[tag + 1] == "{"
            var inside = tag + 2
            var sign: Unicode.Scalar?
            if inside < source.count, source[inside] == "-" || source[inside] == "+" {
                sign = source[inside]
                inside += 1
            }
            addData(position..<textEnd(position..<tag, sign: sign, isOutput: isOutput))
            position = inside
            switch source[tag + 1] {
            case "#": try skipComment(from: tag)
            case "{":
                add(.outputBegin, at: tag)
                try lexTag(from: tag, close: "}")
            default:
                if let begin = rawBegin(inside) {
                    position = begin
                    try lexRaw(from: tag)
                } else {
                    add(.blockBegin, at: tag)
                    try lexTag(from: tag, close: "%")
                }
            }
        }
        add(.end, at: source.count)
    }

    // MARK: Text

    private func nextTag(from start: Int) -> Int? {
        var index = start
        while index + 1 < source.count {
            if source[index] == "{", ["{", "%", "#"].contains(source[index + 1]) { return index }
            index += 1
        }
        return nil
    }

    /// Where the text before a tag ends once the tag's white-space rule has been applied.
    private func textEnd(_ text: Range<Int>, sign: Unicode.Scalar?, isOutput: Bool) -> Int {
        var end = text.upperBound
        if sign == "-" {
            while end > text.lowerBound, source[end - 1].isPythonSpace { end -= 1 }
        } else if sign == nil, !isOutput {
            while end > text.lowerBound, source[end - 1] != "\n", source[end - 1].isPythonSpace { end -= 1 }
            let reachesLineStart = end > text.lowerBound ? source[end - 1] == "\n" : beginsLine
            if !reachesLineStart { end = text.upperBound }
        }
        return end
    }

    private mutating func skipComment(from tag: Int) throws(TemplateError) {
        var index = position
        while index + 1 < source.count {
            if source[index] == "#", source[index + 1] == "}" {
                let sign = index > position ? source[index - 1] : " "
                finishTag(at: index + 2, sign: sign, trimsLineBreak: true)
                return
            }
            index += 1
        }
        throw .syntax(expected: "'#}'", found: "the end of the template", at: place(tag))
    }

    /// Moves past white space that the end of a tag takes.
    private mutating func finishTag(at end: Int, sign: Unicode.Scalar, trimsLineBreak: Bool) {
        position = end
        if sign == "-" {
            while position < source.count, source[position].isPythonSpace { position += 1 }
        } else if trimsLineBreak, sign != "+", position < source.count, source[position] == "\n" {
            position += 1
        }
        beginsLine = position > end && source[position - 1] == "\n"
    }

    // MARK: Raw blocks

    /// The position after `raw %}`, if that is what stands at `index`.
    private func rawBegin(_ index: Int) -> Int? {
        guard var end = word("raw", at: index) else { return nil }
        let strips = end < source.count && source[end] == "-"
        if strips { end += 1 }
        guard matches("%}", at: end) else { return nil }
        end += 2
        while strips, end < source.count, source[end].isPythonSpace { end += 1 }
        return end
    }

    private mutating func lexRaw(from tag: Int) throws(TemplateError) {
        var index = position
        while index + 1 < source.count {
            defer { index += 1 }
            guard matches("{%", at: index) else { continue }
            var inside = index + 2
            var sign: Unicode.Scalar?
            if inside < source.count, source[inside] == "-" || source[inside] == "+" {
                sign = source[inside]
                inside += 1
            }
            guard var end = word("endraw", at: inside) else { continue }
            var endSign: Unicode.Scalar = " "
            if end < source.count, source[end] == "-" || source[end] == "+" {
                endSign = source[end]
                end += 1
            }
            guard matches("%}", at: end) else { continue }
            beginsLine = position > 0 && source[position - 1] == "\n"
            addData(position..<textEnd(position..<index, sign: sign, isOutput: false))
            finishTag(at: end + 2, sign: endSign, trimsLineBreak: true)
            return
        }
        throw .syntax(expected: "'{% endraw %}'", found: "the end of the template", at: place(tag))
    }

    /// The position after `word` and the white space around it, if it stands at `index`.
    private func word(_ word: String, at index: Int) -> Int? {
        var index = index
        while index < source.count, source[index].isPythonSpace { index += 1 }
        guard matches(word, at: index) else { return nil }
        index += word.unicodeScalars.count
        while index < source.count, source[index].isPythonSpace { index += 1 }
        return index
    }

    private func matches(_ text: String, at index: Int) -> Bool {
        var index = index
        for scalar in text.unicodeScalars {
            guard index < source.count, source[index] == scalar else { return false }
            index += 1
        }
        return true
    }

    // MARK: Inside tags

    private mutating func lexTag(from tag: Int, close: Unicode.Scalar) throws(TemplateError) {
        var brackets: [Unicode.Scalar] = []
        while position < source.count {
            if brackets.isEmpty, lexTagEnd(close) { return }
            let scalar = source[position]
            if scalar.isPythonSpace {
                position += 1
            } else if scalar.isASCIIDigit {
                try lexNumber()
            } else if scalar == "_" || scalar.properties.isXIDStart {
                let start = position
                while position < source.count, source[position].properties.isXIDContinue { position += 1 }
                add(.name(text(start..<position)), at: start)
            } else if scalar == "'" || scalar == "\"" {
                try lexString(quote: scalar)
            } else {
                try lexSymbol(&brackets)
            }
        }
        let expected = close == "}" ? "'}}'" : "'%}'"
        throw .syntax(expected: expected, found: "the end of the template", at: place(tag))
    }

    private mutating func lexTagEnd(_ close: Unicode.Scalar) -> Bool {
        let isBlock = close == "%"
        var end = position
        var sign: Unicode.Scalar = " "
        if source[end] == "-" || (isBlock && source[end] == "+") {
            sign = source[end]
            end += 1
        }
        guard end + 1 < source.count, source[end] == close, source[end + 1] == "}" else { return false }
        add(isBlock ? .blockEnd : .outputEnd, at: position)
        finishTag(at: end + 2, sign: sign, trimsLineBreak: isBlock)
        return true
    }

    private mutating func lexSymbol(_ brackets: inout [Unicode.Scalar]) throws(TemplateError) {
        let start = position
        let scalar = source[position]
        if ["**", "//", "==", "!=", ">=", "<="].contains(where: { matches($0, at: start) }) {
            position += 2
        } else if ["+", "-", "/", "*", "%", "~", ">", "<", "=", ".", ":", "|", ",", ";"].contains(scalar) {
            position += 1
        } else if let closing = Self.closing[scalar] {
            brackets.append(closing)
            position += 1
        } else if [")", "]", "}"].contains(scalar) {
            guard let expected = brackets.popLast() else {
                throw .syntax(expected: "an expression", found: "'\(scalar)'", at: place(start))
            }
            guard expected == scalar else {
                throw .syntax(expected: "'\(expected)'", found: "'\(scalar)'", at: place(start))
            }
            position += 1
        } else {
            throw .syntax(expected: "an expression", found: "'\(scalar)'", at: place(start))
        }
        add(.symbol(text(start..<position)), at: start)
    }

    private static let closing: [Unicode.Scalar: Unicode.Scalar] = ["(": ")", "[": "]", "{": "}"]

    // MARK: Numbers and strings

    private mutating func lexNumber() throws(TemplateError) {
        let start = position
        // `x.0.1` is two subscripts, so no fraction follows a digit after a dot.
        let followsDot = start > 0 && source[start - 1] == "."
        if source[start] == "0", start + 1 < source.count, let radix = Self.radix[source[start + 1]] {
            position += 2
            while position < source.count, source[position] == "_" || source[position].properties.isASCIIHexDigit {
                position += 1
            }
            let digits = text(start + 2..<position).filter { $0 != "_" }
            guard let value = Int(digits, radix: radix) else { throw numberError(start) }
            add(.integer(value), at: start)
            return
        }
        skipDigits()
        var isDouble = false
        if !followsDot {
            if position + 1 < source.count, source[position] == ".", source[position + 1].isASCIIDigit {
                isDouble = true
                position += 1
                skipDigits()
            }
            if position < source.count, source[position] == "e" || source[position] == "E" {
                var exponent = position + 1
                if exponent < source.count, source[exponent] == "+" || source[exponent] == "-" { exponent += 1 }
                if exponent < source.count, source[exponent].isASCIIDigit {
                    isDouble = true
                    position = exponent
                    skipDigits()
                }
            }
        }
        let digits = text(start..<position).filter { $0 != "_" }
        if isDouble {
            guard let value = Double(digits) else { throw numberError(start) }
            add(.double(value), at: start)
        } else {
            guard let value = Int(digits), value == 0 || source[start] != "0" else { throw numberError(start) }
            add(.integer(value), at: start)
        }
    }

    private static let radix: [Unicode.Scalar: Int] = ["x": 16, "X": 16, "o": 8, "O": 8, "b": 2, "B": 2]

    private mutating func skipDigits() {
        while position < source.count {
            let isSeparator =
                source[position] == "_" && position + 1 < source.count && source[position + 1].isASCIIDigit
            guard isSeparator || source[position].isASCIIDigit else { return }
            position += 1
        }
    }

    private mutating func numberError(_ start: Int) -> TemplateError {
        .syntax(expected: "a number of at most 64 bits", found: text(start..<position), at: place(start))
    }

    private mutating func lexString(quote: Unicode.Scalar) throws(TemplateError) {
        let start = position
        position += 1
        var value = String.UnicodeScalarView()
        while position < source.count {
            let scalar = source[position]
            position += 1
            if scalar == quote {
                add(.string(String(value)), at: start)
                return
            }
            if scalar == "\\" {
                try lexEscape(into: &value)
            } else {
                value.append(scalar)
            }
        }
        throw .syntax(expected: "the string's closing quote", found: "the end of the template", at: place(start))
    }

    /// Reads a Python escape; the backslash has been read. Unknown escapes keep it.
    private mutating func lexEscape(into value: inout String.UnicodeScalarView) throws(TemplateError) {
        guard position < source.count else { return }
        let scalar = source[position]
        if let simple = Self.escapes[scalar] {
            value.append(simple)
            position += 1
        } else if scalar == "\n" {
            position += 1
        } else if let length = ["x": 2, "u": 4, "U": 8][scalar] {
            let start = position
            let digits = text(start + 1..<min(start + 1 + length, source.count))
            guard digits.count == length, let code = UInt32(digits, radix: 16), let decoded = Unicode.Scalar(code)
            else { throw .syntax(expected: "a character's code", found: "'\\\(scalar)\(digits)'", at: place(start)) }
            value.append(decoded)
            position = start + 1 + length
        } else if ("0"..."7").contains(scalar) {
            var code: UInt32 = 0
            var count = 0
            while count < 3, position < source.count, ("0"..."7").contains(source[position]) {
                code = code * 8 + source[position].value - 48
                position += 1
                count += 1
            }
            value.append(Unicode.Scalar(code) ?? "\u{FFFD}")
        } else if scalar == "N" {
            throw .unsupported(construct: "the string escape \\N", at: place(position))
        } else {
            value.append("\\")
            value.append(scalar)
            position += 1
        }
    }

    private static let escapes: [Unicode.Scalar: Unicode.Scalar] = [
        "\\": "\\", "'": "'", "\"": "\"", "n": "\n", "r": "\r", "t": "\t", "a": "\u{7}", "b": "\u{8}", "f": "\u{C}",
        "v": "\u{B}",
    ]

    // MARK: Tokens

    private func text(_ range: Range<Int>) -> String {
        var view = String.UnicodeScalarView()
        view.append(contentsOf: source[range])
        return String(view)
    }

    private mutating func addData(_ range: Range<Int>) {
        if !range.isEmpty { add(.data(text(range)), at: range.lowerBound) }
    }

    private mutating func add(_ kind: TemplateToken.Kind, at offset: Int) {
        tokens.append(TemplateToken(kind: kind, place: place(offset)))
    }

    /// The line and column of `offset`; counts on from the last offset asked for.
    private mutating func place(_ offset: Int) -> TemplatePlace {
        if offset < placed {
            (line, lineStart, placed) = (1, 0, 0)
        }
        while placed < offset {
            if source[placed] == "\n" {
                line += 1
                lineStart = placed + 1
            }
            placed += 1
        }
        return TemplatePlace(line: line, column: Int32(truncatingIfNeeded: offset - lineStart + 1))
    }
}
