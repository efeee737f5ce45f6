/// Names that requests bring along, taken over where they have the right form.
enum RequestNames {
    /// A request's id: the client's, where it is at most 128 letters, digits, dots, dashes and underscores; else a new one.
    static func requestID(_ given: String?) -> String {
        if let given, (1...128).contains(given.utf8.count), given.utf8.allSatisfy(isPlain) { return given }
        return random()
    }

    /// 32 random hexadecimal digits.
    static func random() -> String { hex(.random(in: 0...UInt64.max)) + hex(.random(in: 0...UInt64.max)) }

    /// Whether a text is a `traceparent` of W3C's trace context: `00-<32 hex>-<16 hex>-<2 hex>`, ids not all zero.
    static func isTraceParent(_ text: String) -> Bool {
        let parts = text.split(separator: "-", omittingEmptySubsequences: false)
        guard parts.count >= 4, parts[0] != "ff", parts[0] != "00" || parts.count == 4 else { return false }
        let lengths = [2, 32, 16, 2]
        for (part, length) in zip(parts, lengths) where part.utf8.count != length || !part.utf8.allSatisfy(isHex) {
            return false
        }
        return parts[1].contains { $0 != "0" } && parts[2].contains { $0 != "0" }
    }

    /// The trace id within a `traceparent`.
    static func traceID(_ traceParent: String) -> String {
        String(traceParent.split(separator: "-", omittingEmptySubsequences: false)[1])
    }

    private static func isPlain(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "-"), UInt8(ascii: "_"):
            true
        default: false
        }
    }

    private static func isHex(_ byte: UInt8) -> Bool {
        (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) || (UInt8(ascii: "a")...UInt8(ascii: "f")).contains(byte)
    }

    private static func hex(_ value: UInt64) -> String {
        let digits = String(value, radix: 16)
        return String(repeating: "0", count: 16 - digits.count) + digits
    }
}
