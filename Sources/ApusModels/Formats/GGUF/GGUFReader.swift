/// Reads the parts of a GGUF file in order; every length and count is checked against what is left of the file before
/// it is used.
struct GGUFReader {
    let file: MappedFile
    private(set) var position: Int
    /// Whether bytes that are not UTF-8 become U+FFFD rather than an error: inside arrays, where a vocabulary's tokens
    /// may be any bytes.
    private let repairsText: Bool

    /// Arrays inside arrays beyond this depth are refused, so that a file cannot exhaust the stack.
    static let maximumDepth = 4

    init(file: MappedFile, position: Int, repairsText: Bool = false) {
        self.file = file
        self.position = position
        self.repairsText = repairsText
    }

    private var remaining: Int { file.byteCount - position }

    func malformed(_ place: String, expected: String, found: String) -> ModelFileError {
        .malformed(file: file.name, place: place, expected: expected, found: found)
    }

    mutating func number<T: FixedWidthInteger & BitwiseCopyable>(
        _ type: T.Type, _ place: @autoclosure () -> String
    ) throws -> T {
        guard let value: T = file.number(at: position) else {
            throw malformed(
                place(), expected: "\(MemoryLayout<T>.size) bytes at offset \(position)", found: "\(remaining)")
        }
        position += MemoryLayout<T>.size
        return value
    }

    private mutating func number<T: FixedWidthInteger & BitwiseCopyable>(_ place: String) throws -> T {
        try number(T.self, place)
    }

    /// A count of things that take at least `minimum` bytes each.
    mutating func count(minimum: Int, _ place: @autoclosure () -> String) throws -> Int {
        let value = try number(UInt64.self, place())
        guard let count = Int(exactly: value), count <= remaining / minimum else {
            throw malformed(
                place(), expected: "a count that fits the \(remaining) bytes left (\(minimum) bytes each at least)",
                found: "\(value)")
        }
        return count
    }

    mutating func stringRange(_ place: @autoclosure () -> String) throws -> Range<Int> {
        let length = try count(minimum: 1, place() + ": length")
        defer { position += length }
        return position..<position + length
    }

    mutating func string(_ place: @autoclosure () -> String, limit: Int = .max) throws -> String {
        let range = try stringRange(place())
        guard range.count <= limit else {
            throw malformed(place(), expected: "at most \(limit) bytes", found: "\(range.count)")
        }
        if repairsText { return file.withBytes(range) { String(decoding: $0, as: UTF8.self) } }
        guard let text = file.text(range) else {
            throw malformed(place(), expected: "valid UTF-8", found: "\(range.count) bytes that are not")
        }
        return text
    }

    mutating func type(_ place: @autoclosure () -> String) throws -> GGUFValueType {
        let raw = try number(UInt32.self, place())
        guard let type = GGUFValueType(rawValue: raw) else {
            throw malformed(place(), expected: "a value type from 0 to 12", found: "\(raw)")
        }
        return type
    }

    mutating func value(_ type: GGUFValueType, place: String, depth: Int) throws -> GGUFValue {
        switch type {
        case .uint8: .uint8(try number(place))
        case .int8: .int8(try number(place))
        case .uint16: .uint16(try number(place))
        case .int16: .int16(try number(place))
        case .uint32: .uint32(try number(place))
        case .int32: .int32(try number(place))
        case .uint64: .uint64(try number(place))
        case .int64: .int64(try number(place))
        case .float32: .float32(Float(bitPattern: try number(place)))
        case .float64: .float64(Double(bitPattern: try number(place)))
        case .bool: .bool(try bool(place))
        case .string: .string(try string(place))
        case .array: .array(try array(place: place, depth: depth + 1))
        }
    }

    private mutating func bool(_ place: String) throws -> Bool {
        let byte = try number(UInt8.self, place)
        guard byte <= 1 else { throw malformed(place, expected: "a bool of 0 or 1", found: "\(byte)") }
        return byte == 1
    }

    private mutating func array(place: String, depth: Int) throws -> GGUFArray {
        guard depth <= Self.maximumDepth else {
            throw malformed(place, expected: "arrays nested at most \(Self.maximumDepth) deep", found: "deeper ones")
        }
        let elementType = try type(place + ": element type")
        let count = try count(minimum: elementType.minimumByteCount, place + ": count")
        let start = position
        switch elementType {
        case .string:
            for _ in 0..<count { _ = try stringRange(place) }
        case .array:
            for _ in 0..<count { _ = try array(place: place, depth: depth + 1) }
        case .bool:
            for _ in 0..<count { _ = try bool(place) }
        default:
            position += count * elementType.minimumByteCount
        }
        return GGUFArray(elementType: elementType, count: count, file: file, range: start..<position)
    }
}
