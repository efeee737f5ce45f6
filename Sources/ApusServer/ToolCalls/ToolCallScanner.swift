import ApusText

/// Follows the JSON of calls byte by byte: objects, one or several, perhaps in a list, and what closes them.
struct ToolCallScanner: Sendable {
    enum Step {
        case goesOn
        /// An object has ended; its name and arguments are there to be read.
        case callEnded
        /// The closing tag has ended.
        case closed
        /// What came is no call.
        case failed
    }

    private enum Place {
        case between, keyOrEnd, key, colon, value, inString, inContainer, inScalar, afterValue, closer
    }

    /// All bytes since the last complete call, opener included: what to show where this is no call.
    private(set) var raw: [UInt8]
    private var place = Place.between
    private var object: [UInt8] = []
    private var depth = 0
    private var isInString = false
    private var isEscaped = false
    private var matched = 0
    private var isInList = false
    private var hasCalls = false
    private var tokenStart = 0
    private var key = ""
    private var argumentsStart: Int?
    private var argumentsEnd: Int?

    /// The name, once it is whole.
    private(set) var name: String?

    init(raw: [UInt8] = []) { self.raw = raw }

    /// Whether an object has begun and not ended.
    var isOpen: Bool { place != .between && place != .closer }

    /// The JSON text of the arguments as far as it has come.
    var arguments: ArraySlice<UInt8>? {
        argumentsStart.map { object[$0..<(argumentsEnd ?? object.count)] }
    }

    /// Forgets a complete call.
    mutating func forget() {
        raw = []
        object = []
        name = nil
        argumentsStart = nil
        argumentsEnd = nil
    }

    mutating func take(_ byte: UInt8, closer: [UInt8], allowsList: Bool) -> Step {
        raw.append(byte)
        if isOpen { object.append(byte) }
        switch place {
        case .between: return between(byte, closer, allowsList)
        case .closer:
            guard byte == closer[matched] else { return .failed }
            matched += 1
            return matched == closer.count ? .closed : .goesOn
        case .keyOrEnd:
            if ToolCallParser.isSpace(byte) { return .goesOn }
            if byte == UInt8(ascii: "}") { return end() }
            guard byte == UInt8(ascii: "\"") else { return .failed }
            begin(.key)
        case .key: if stringEnds(byte) { return keyEnded() }
        case .colon:
            if ToolCallParser.isSpace(byte) { return .goesOn }
            guard byte == UInt8(ascii: ":") else { return .failed }
            place = .value
        case .value: return value(byte)
        case .inString: if stringEnds(byte) { return valueEnded() }
        case .inContainer: return container(byte)
        case .inScalar:
            if byte == UInt8(ascii: ",") || byte == UInt8(ascii: "}") || ToolCallParser.isSpace(byte) {
                let step = valueEnded(excluding: 1)
                if case .failed = step { return step }
                return afterValue(byte)
            }
        case .afterValue: return afterValue(byte)
        }
        return .goesOn
    }

    private mutating func between(_ byte: UInt8, _ closer: [UInt8], _ allowsList: Bool) -> Step {
        switch byte {
        case _ where ToolCallParser.isSpace(byte): return .goesOn
        case UInt8(ascii: "{"):
            object = [byte]
            place = .keyOrEnd
            return .goesOn
        case UInt8(ascii: "[") where allowsList && !isInList && !hasCalls:
            isInList = true
            return .goesOn
        case UInt8(ascii: "]") where isInList && hasCalls:
            isInList = false
            return .goesOn
        case UInt8(ascii: ",") where isInList && hasCalls, UInt8(ascii: ";") where hasCalls:
            return .goesOn
        case _ where byte == closer.first && hasCalls:
            place = .closer
            matched = 1
            return .goesOn
        default: return .failed
        }
    }

    private mutating func begin(_ next: Place) {
        place = next
        tokenStart = object.count - 1
        isEscaped = false
    }

    /// Whether a byte inside a string is its closing quote.
    private mutating func stringEnds(_ byte: UInt8) -> Bool {
        if isEscaped {
            isEscaped = false
        } else if byte == UInt8(ascii: "\\") {
            isEscaped = true
        } else if byte == UInt8(ascii: "\"") {
            return true
        }
        return false
    }

    private mutating func keyEnded() -> Step {
        guard case .string(let text)? = try? JSONValue(parsing: Array(object[tokenStart...])) else {
            return .failed
        }
        key = text
        place = .colon
        return .goesOn
    }

    private mutating func value(_ byte: UInt8) -> Step {
        if ToolCallParser.isSpace(byte) { return .goesOn }
        switch byte {
        case UInt8(ascii: "\""): begin(.inString)
        case UInt8(ascii: "{"), UInt8(ascii: "["):
            begin(.inContainer)
            depth = 1
            isInString = false
        case UInt8(ascii: ","), UInt8(ascii: "}"), UInt8(ascii: "]"), UInt8(ascii: ":"): return .failed
        default: begin(.inScalar)
        }
        if key == "arguments" || key == "parameters" {
            argumentsStart = tokenStart
            argumentsEnd = nil
        }
        return .goesOn
    }

    private mutating func container(_ byte: UInt8) -> Step {
        if isInString {
            if stringEnds(byte) { isInString = false }
            return .goesOn
        }
        switch byte {
        case UInt8(ascii: "\""): isInString = true
        case UInt8(ascii: "{"), UInt8(ascii: "["): depth += 1
        case UInt8(ascii: "}"), UInt8(ascii: "]"):
            depth -= 1
            if depth == 0 { return valueEnded() }
        default: break
        }
        return .goesOn
    }

    private mutating func valueEnded(excluding count: Int = 0) -> Step {
        let end = object.count - count
        place = .afterValue
        if key == "arguments" || key == "parameters" { argumentsEnd = end }
        if key == "name" {
            guard case .string(let text)? = try? JSONValue(parsing: Array(object[tokenStart..<end]))
            else { return .failed }
            name = text
        }
        return .goesOn
    }

    private mutating func afterValue(_ byte: UInt8) -> Step {
        if ToolCallParser.isSpace(byte) { return .goesOn }
        switch byte {
        case UInt8(ascii: ","):
            place = .keyOrEnd
            return .goesOn
        case UInt8(ascii: "}"): return end()
        default: return .failed
        }
    }

    private mutating func end() -> Step {
        place = .between
        hasCalls = true
        return .callEnded
    }
}
