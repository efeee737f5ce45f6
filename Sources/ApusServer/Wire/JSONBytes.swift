import ApusText
import NIOCore

/// JSON text written straight into a buffer: what a stream sends for each token costs no intermediate values.
struct JSONBytes {
    var buffer = ByteBuffer()

    init(capacity: Int = 0) { buffer.reserveCapacity(capacity) }

    /// Text that is JSON already.
    mutating func raw(_ text: StaticString) {
        text.withUTF8Buffer { _ = buffer.writeBytes(UnsafeRawBufferPointer($0)) }
    }

    /// Bytes that are JSON already.
    mutating func raw(_ bytes: [UInt8]) { buffer.writeBytes(bytes) }

    mutating func value(_ value: JSONValue) { buffer.writeString(value.serialized()) }

    mutating func integer(_ value: Int) {
        if (0...9).contains(value) {
            buffer.writeInteger(UInt8(ascii: "0") + UInt8(value))
        } else {
            buffer.writeString(String(value))
        }
    }

    /// A number; one that is not finite, which JSON cannot say, becomes the nearest one it can.
    mutating func number(_ value: Double) {
        let finite = value.isFinite ? value : value < 0 ? -9999 : value > 0 ? 9999 : 0
        buffer.writeString(finite.description)
    }

    /// A string with its quotes.
    mutating func string(_ text: String) {
        buffer.writeInteger(UInt8(ascii: "\""))
        escaped(text)
        buffer.writeInteger(UInt8(ascii: "\""))
    }

    /// A string without its quotes.
    mutating func escaped(_ text: String) {
        var text = text
        text.withUTF8 { bytes in
            var start = 0
            for (index, byte) in bytes.enumerated() where byte < 0x20 || byte == 0x22 || byte == 0x5C {
                buffer.writeBytes(UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(bytes)[start..<index]))
                escape(byte)
                start = index + 1
            }
            buffer.writeBytes(UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(bytes)[start...]))
        }
    }

    private mutating func escape(_ byte: UInt8) {
        switch byte {
        case 0x22: raw("\\\"")
        case 0x5C: raw("\\\\")
        case 0x0A: raw("\\n")
        case 0x0D: raw("\\r")
        case 0x09: raw("\\t")
        default:
            raw("\\u00")
            for digit in [byte >> 4, byte & 15] {
                buffer.writeInteger(digit + (digit < 10 ? UInt8(ascii: "0") : UInt8(ascii: "a") - 10))
            }
        }
    }
}
