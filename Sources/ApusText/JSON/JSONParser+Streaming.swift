/// Walking through a document without building it, for members too large to be held as values.
extension JSONParser {
    /// Calls `body` at each member's value, which it must consume.
    mutating func forEachMember(_ body: (inout JSONParser, String) throws -> Void) throws {
        skipSpace()
        guard peek == UInt8(ascii: "{") else { throw unexpected("an object") }
        position += 1
        skipSpace()
        if peek == UInt8(ascii: "}") { return position += 1 }
        while true {
            skipSpace()
            guard peek == UInt8(ascii: "\"") else { throw unexpected("a key in quotes") }
            let key = try parseString()
            skipSpace()
            guard peek == UInt8(ascii: ":") else { throw unexpected("':'") }
            position += 1
            skipSpace()
            try body(&self, key)
            if try endsAfterItem(UInt8(ascii: "}"), "',' or '}'") { return }
        }
    }

    /// Calls `body` at each element, which it must consume.
    mutating func forEachElement(_ body: (inout JSONParser) throws -> Void) throws {
        skipSpace()
        guard peek == UInt8(ascii: "[") else { throw unexpected("an array") }
        position += 1
        skipSpace()
        if peek == UInt8(ascii: "]") { return position += 1 }
        while true {
            skipSpace()
            try body(&self)
            if try endsAfterItem(UInt8(ascii: "]"), "',' or ']'") { return }
        }
    }

    private mutating func endsAfterItem(_ close: UInt8, _ expected: String) throws(JSONError) -> Bool {
        skipSpace()
        guard peek == UInt8(ascii: ",") || peek == close else { throw unexpected(expected) }
        let isEnd = peek == close
        position += 1
        return isEnd
    }

    /// A string, whose opening quote must come next.
    mutating func requireString() throws(JSONError) -> String {
        skipSpace()
        guard peek == UInt8(ascii: "\"") else { throw unexpected("a string") }
        return try parseString()
    }

    /// An integer, which must come next.
    mutating func requireInteger() throws(JSONError) -> Int {
        skipSpace()
        let start = position
        guard let byte = peek, byte == UInt8(ascii: "-") || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte),
            case .integer(let value) = try parseNumber()
        else {
            position = start
            throw unexpected("an integer")
        }
        return Int(value)
    }
}
