/// What a parser makes of a key that comes twice in one object.
public enum JSONDuplicateKeys: Sendable {
    /// The last value holds, as in most readers.
    case lastHolds
    /// An error, for formats that forbid it.
    case refused
}

extension JSONValue {
    /// How many arrays and objects may be nested inside one another unless a caller says otherwise.
    public static let defaultDepthLimit = 192

    /// Parses one JSON document (RFC 8259) of UTF-8 bytes; only white space may follow it.
    ///
    /// Integers beyond 64 bits become doubles; a number beyond the range of doubles, `NaN`, `Infinity`, a byte order
    /// mark, a lone surrogate, invalid UTF-8 and a control character inside a string are errors. Of a key that comes
    /// twice the last value holds. Time and memory are linear in the length.
    /// - Parameters:
    ///   - bytes: the text; read only during the call.
    ///   - depthLimit: how many arrays and objects may be nested, at most 1024.
    ///   - duplicateKeys: whether a key may come twice in one object.
    /// - Throws: `JSONError` with the place of what is wrong.
    public init(
        parsing bytes: UnsafeRawBufferPointer, depthLimit: Int = defaultDepthLimit,
        duplicateKeys: JSONDuplicateKeys = .lastHolds
    ) throws(JSONError) {
        var parser = JSONParser(
            bytes: bytes, depthLimit: Swift.min(depthLimit, 1024), duplicateKeys: duplicateKeys)
        self = try parser.parseDocument()
    }

    /// Parses one JSON document of UTF-8 bytes, as `init(parsing:depthLimit:)` does for a raw buffer.
    public init(parsing bytes: [UInt8], depthLimit: Int = defaultDepthLimit) throws(JSONError) {
        let result = bytes.withUnsafeBytes { buffer in
            Result { () throws(JSONError) in try JSONValue(parsing: buffer, depthLimit: depthLimit) }
        }
        self = try result.get()
    }

    /// Parses one JSON document, as `init(parsing:depthLimit:)` does for a raw buffer.
    public init(parsing text: String, depthLimit: Int = defaultDepthLimit) throws(JSONError) {
        var text = text
        let result = text.withUTF8 { buffer in
            Result { () throws(JSONError) in
                try JSONValue(parsing: UnsafeRawBufferPointer(buffer), depthLimit: depthLimit)
            }
        }
        self = try result.get()
    }
}

/// Runs the parser and both serialisers on arbitrary bytes; a parsed value must survive the round trip.
/// Returns false when it does not.
package func fuzzJSON(_ bytes: UnsafeRawBufferPointer) -> Bool {
    guard let value = try? JSONValue(parsing: bytes) else { return true }
    for style in [JSONStyle.compact, .python, .pretty] {
        guard let again = try? JSONValue(parsing: value.serialized(style)), again == value else { return false }
    }
    return true
}

/// Recursive descent over a borrowed buffer. Every read is checked against `bytes.count` by `peek` or by the loop
/// that makes it.
struct JSONParser {
    let bytes: UnsafeRawBufferPointer
    let depthLimit: Int
    let duplicateKeys: JSONDuplicateKeys
    var position = 0

    init(bytes: UnsafeRawBufferPointer, depthLimit: Int, duplicateKeys: JSONDuplicateKeys) {
        self.bytes = bytes
        self.depthLimit = depthLimit
        self.duplicateKeys = duplicateKeys
    }

    mutating func parseDocument() throws(JSONError) -> JSONValue {
        let value = try parseValue(depth: 0)
        skipSpace()
        guard position == bytes.count else { throw unexpected("the end of the document") }
        return value
    }

    @inline(__always)
    var peek: UInt8? { position < bytes.count ? bytes[position] : nil }

    @inline(__always)
    mutating func skipSpace() {
        while position < bytes.count {
            switch bytes[position] {
            case 0x20, 0x0A, 0x0D, 0x09: position += 1
            default: return
            }
        }
    }

    mutating func parseValue(depth: Int) throws(JSONError) -> JSONValue {
        skipSpace()
        guard let byte = peek else { throw unexpected("a value") }
        switch byte {
        case UInt8(ascii: "\""): return .string(try parseString())
        case UInt8(ascii: "{"): return .object(try parseObject(depth: depth))
        case UInt8(ascii: "["): return .array(try parseArray(depth: depth))
        case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"): return try parseNumber()
        case UInt8(ascii: "t"): return try parseWord("true", .bool(true))
        case UInt8(ascii: "f"): return try parseWord("false", .bool(false))
        case UInt8(ascii: "n"): return try parseWord("null", .null)
        default: throw unexpected("a value")
        }
    }

    private mutating func parseWord(_ word: StaticString, _ value: JSONValue) throws(JSONError) -> JSONValue {
        let length = word.utf8CodeUnitCount
        guard position + length <= bytes.count,
            UnsafeRawBufferPointer(rebasing: bytes[position..<position + length])
                .elementsEqual(UnsafeRawBufferPointer(start: word.utf8Start, count: length))
        else { throw unexpected(word.description) }
        position += length
        return value
    }

    private mutating func parseArray(depth: Int) throws(JSONError) -> [JSONValue] {
        guard depth < depthLimit else { throw .tooDeep(limit: depthLimit, at: location(position)) }
        position += 1
        var elements: [JSONValue] = []
        skipSpace()
        if peek == UInt8(ascii: "]") {
            position += 1
            return elements
        }
        while true {
            elements.append(try parseValue(depth: depth + 1))
            skipSpace()
            switch peek {
            case UInt8(ascii: ","): position += 1
            case UInt8(ascii: "]"):
                position += 1
                return elements
            default: throw unexpected("',' or ']'")
            }
        }
    }

    private mutating func parseObject(depth: Int) throws(JSONError) -> JSONObject {
        guard depth < depthLimit else { throw .tooDeep(limit: depthLimit, at: location(position)) }
        position += 1
        var object = JSONObject()
        skipSpace()
        if peek == UInt8(ascii: "}") {
            position += 1
            return object
        }
        while true {
            skipSpace()
            guard peek == UInt8(ascii: "\"") else { throw unexpected("a key in quotes") }
            let start = position
            let key = try parseString()
            if duplicateKeys == .refused, object[key] != nil {
                throw .syntax(expected: "distinct keys", found: "\(JSONValue.string(key)) again", at: location(start))
            }
            skipSpace()
            guard peek == UInt8(ascii: ":") else { throw unexpected("':'") }
            position += 1
            object.set(key, try parseValue(depth: depth + 1))
            skipSpace()
            switch peek {
            case UInt8(ascii: ","): position += 1
            case UInt8(ascii: "}"):
                position += 1
                return object
            default: throw unexpected("',' or '}'")
            }
        }
    }

    func unexpected(_ expected: String) -> JSONError {
        .syntax(expected: expected, found: describe(position), at: location(position))
    }

    /// Names the character at `offset` for a message.
    private func describe(_ offset: Int) -> String {
        guard offset < bytes.count else { return "the end of the text" }
        let byte = bytes[offset]
        if byte > 0x20 && byte < 0x7F { return "'\(Character(Unicode.Scalar(byte)))'" }
        if bytes.dropFirst(offset).starts(with: [0xEF, 0xBB, 0xBF]) { return "a byte order mark" }
        return "byte 0x" + (byte < 16 ? "0" : "") + String(byte, radix: 16, uppercase: true)
    }

    func location(_ offset: Int) -> JSONLocation {
        var line = 1
        var column = 1
        for byte in bytes.prefix(offset) {
            if byte == 0x0A {
                line += 1
                column = 1
            } else if byte & 0xC0 != 0x80 {
                column += 1
            }
        }
        return JSONLocation(offset: offset, line: line, column: column)
    }
}
