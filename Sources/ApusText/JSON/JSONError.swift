/// A place in a JSON text.
public struct JSONLocation: Sendable, Hashable, CustomStringConvertible {
    /// Bytes before the place.
    public let offset: Int
    /// The line, from 1.
    public let line: Int
    /// The column in Unicode scalars, from 1.
    public let column: Int

    /// "line 3, column 14 (byte 52)".
    public var description: String { "line \(line), column \(column) (byte \(offset))" }
}

/// What can be wrong with a JSON text or with what it holds.
public enum JSONError: Error, Equatable, CustomStringConvertible {
    /// The text breaks JSON's grammar (RFC 8259).
    case syntax(expected: String, found: String, at: JSONLocation)
    /// A string holds bytes that are no UTF-8.
    case invalidUTF8(byte: UInt8, at: JSONLocation)
    /// A `\u` escape is half of a surrogate pair.
    case loneSurrogate(unit: UInt16, at: JSONLocation)
    /// Arrays and objects are nested deeper than the parser was told to follow.
    case tooDeep(limit: Int, at: JSONLocation)
    /// A number is larger than a double can be.
    case numberOutOfRange(text: String, at: JSONLocation)
    /// A member that must be there is not.
    case missing(path: String, expected: String)
    /// A value is not of the kind asked for.
    case type(path: String, expected: String, found: String)

    /// One sentence for people.
    public var description: String {
        switch self {
        case .syntax(let expected, let found, let place): "expected \(expected), found \(found) at \(place)"
        case .invalidUTF8(let byte, let place):
            "expected UTF-8, found byte 0x\(String(byte, radix: 16, uppercase: true)) at \(place)"
        case .loneSurrogate(let unit, let place):
            "expected a surrogate pair, found lone \\u\(String(unit, radix: 16)) at \(place)"
        case .tooDeep(let limit, let place):
            "expected at most \(limit) nested arrays and objects, found more at \(place)"
        case .numberOutOfRange(let text, let place):
            "expected a number within double precision's range, found \(text) at \(place)"
        case .missing(let path, let expected): "\(path): expected \(expected), found nothing"
        case .type(let path, let expected, let found): "\(path): expected \(expected), found \(found)"
        }
    }
}
