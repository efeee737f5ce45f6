/// The bytes of TensorBoard's event files: records (length, masked CRC-32C of the length, data, masked CRC-32C of the
/// data) that each hold one `Event` message of TensorFlow's event.proto.
enum EventRecord {
    /// The first record of a file: `file_version = "brain.Event:2"`.
    static func version(wallTime: Double) -> [UInt8] {
        var event = ProtocolBuffer()
        event.append(1, wallTime)
        event.append(3, Array("brain.Event:2".utf8))
        return frame(event.bytes)
    }

    /// A `SessionLog` of status `START`: readers drop what older files say of this step and later ones.
    static func start(atStep step: Int, wallTime: Double) -> [UInt8] {
        var session = ProtocolBuffer()
        session.append(1, 1)
        var event = ProtocolBuffer()
        event.append(1, wallTime)
        event.append(2, step)
        event.append(7, session.bytes)
        return frame(event.bytes)
    }

    /// One step's scalars: a `Summary` with a `Value` (tag, simple_value) for each.
    static func scalars(_ scalars: [(tag: String, value: Double)], step: Int, wallTime: Double) -> [UInt8] {
        var summary = ProtocolBuffer()
        for scalar in scalars {
            var value = ProtocolBuffer()
            value.append(1, Array(scalar.tag.utf8))
            value.append(2, Float(scalar.value))
            summary.append(1, value.bytes)
        }
        var event = ProtocolBuffer()
        event.append(1, wallTime)
        event.append(2, step)
        event.append(5, summary.bytes)
        return frame(event.bytes)
    }

    private static func frame(_ data: [UInt8]) -> [UInt8] {
        let length = littleEndian(UInt64(data.count))
        return length + littleEndian(CRC32C.masked(length)) + data + littleEndian(CRC32C.masked(data))
    }

    fileprivate static func littleEndian(_ value: some FixedWidthInteger) -> [UInt8] {
        withUnsafeBytes(of: value.littleEndian) { Array($0) }
    }
}

/// A protocol-buffer message being written, field by field.
private struct ProtocolBuffer {
    private(set) var bytes: [UInt8] = []

    private enum WireType: UInt64 { case varint = 0, fixed64 = 1, lengthDelimited = 2, fixed32 = 5 }

    mutating func append(_ field: UInt64, _ value: Double) {
        tag(field, .fixed64)
        bytes += EventRecord.littleEndian(value.bitPattern)
    }

    mutating func append(_ field: UInt64, _ value: Float) {
        tag(field, .fixed32)
        bytes += EventRecord.littleEndian(value.bitPattern)
    }

    mutating func append(_ field: UInt64, _ value: Int) {
        tag(field, .varint)
        varint(UInt64(bitPattern: Int64(value)))
    }

    mutating func append(_ field: UInt64, _ value: [UInt8]) {
        tag(field, .lengthDelimited)
        varint(UInt64(value.count))
        bytes += value
    }

    private mutating func tag(_ field: UInt64, _ type: WireType) { varint(field << 3 | type.rawValue) }

    private mutating func varint(_ value: UInt64) {
        var rest = value
        while rest >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        bytes.append(UInt8(rest))
    }
}
