/// How a JSON value is written.
public struct JSONStyle: Sendable, Hashable {
    /// Between elements; `", "` in Python.
    public var itemSeparator: String
    /// Between a key and its value; `": "` in Python.
    public var keySeparator: String
    /// What one level is indented by; nil keeps everything on one line.
    public var indent: String?
    /// Whether characters beyond ASCII are written as `\u` escapes.
    public var ensureASCII: Bool
    /// Whether keys are sorted by code points instead of kept in order.
    public var sortKeys: Bool

    /// A style from its parts. With an indent, `itemSeparator` is followed by a line break.
    public init(
        itemSeparator: String = ",", keySeparator: String = ":", indent: String? = nil, ensureASCII: Bool = false,
        sortKeys: Bool = false
    ) {
        self.itemSeparator = itemSeparator
        self.keySeparator = keySeparator
        self.indent = indent
        self.ensureASCII = ensureASCII
        self.sortKeys = sortKeys
    }

    /// No white space at all.
    public static let compact = JSONStyle()
    /// What Python's `json.dumps(value, ensure_ascii=False)` writes.
    public static let python = JSONStyle(itemSeparator: ", ", keySeparator: ": ")
    /// Two spaces a level.
    public static let pretty = JSONStyle(keySeparator: ": ", indent: "  ")
}

extension JSONValue {
    /// The JSON text of the value, keys in order. Doubles are written with the fewest digits that read back the same,
    /// in Python's spelling; those that are not finite become `NaN`, `Infinity` and `-Infinity`, as Python writes them.
    public func serialized(_ style: JSONStyle = .compact) -> String {
        var writer = JSONWriter(style: style)
        writer.write(self, level: 0)
        return writer.text
    }
}

private struct JSONWriter {
    let style: JSONStyle
    var text = ""

    init(style: JSONStyle) { self.style = style }

    mutating func write(_ value: JSONValue, level: Int) {
        switch value {
        case .null: text += "null"
        case .bool(let value): text += value ? "true" : "false"
        case .integer(let value): text += String(value)
        case .double(let value):
            text += value.isFinite ? value.pythonRepr : value.isNaN ? "NaN" : value < 0 ? "-Infinity" : "Infinity"
        case .string(let value): write(value)
        case .array(let elements):
            writeList("[", "]", elements, level: level) { writer, element in
                writer.write(element, level: level + 1)
            }
        case .object(let object):
            let write = { (writer: inout JSONWriter, member: JSONObject.Member) in
                writer.write(member.key)
                writer.text += writer.style.keySeparator
                writer.write(member.value, level: level + 1)
            }
            if style.sortKeys {
                let sorted = object.sorted { $0.key.precedesByScalars($1.key) }
                writeList("{", "}", sorted, level: level, write)
            } else {
                writeList("{", "}", object, level: level, write)
            }
        }
    }

    private mutating func writeList<Items: Collection>(
        _ open: String, _ close: String, _ items: Items, level: Int, _ write: (inout Self, Items.Element) -> Void
    ) {
        text += open
        var isFirst = true
        for item in items {
            if !isFirst { text += style.itemSeparator }
            isFirst = false
            breakLine(level: level + 1)
            write(&self, item)
        }
        if !isFirst { breakLine(level: level) }
        text += close
    }

    private mutating func breakLine(level: Int) {
        guard let indent = style.indent else { return }
        text += "\n"
        for _ in 0..<level { text += indent }
    }

    private mutating func write(_ string: String) {
        text += "\""
        var runStart = string.utf8.startIndex
        for index in string.unicodeScalars.indices {
            let scalar = string.unicodeScalars[index]
            guard let escape = escape(scalar) else { continue }
            text += string[runStart..<index]
            text += escape
            runStart = string.unicodeScalars.index(after: index)
        }
        text += string[runStart...]
        text += "\""
    }

    private func escape(_ scalar: Unicode.Scalar) -> String? {
        switch scalar {
        case "\"": return "\\\""
        case "\\": return "\\\\"
        case "\n": return "\\n"
        case "\r": return "\\r"
        case "\t": return "\\t"
        case "\u{8}": return "\\b"
        case "\u{C}": return "\\f"
        default:
            guard scalar.value < 0x20 || (style.ensureASCII && scalar.value > 0x7E) else { return nil }
            return UTF16.encode(scalar)!.map { unit in
                let digits = String(unit, radix: 16)
                return "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            }.joined()
        }
    }
}
