/// An array among a GGUF file's metadata.
///
/// The elements stay where they lie in the file (a vocabulary of 49,152 tokens costs nothing until it is read) and are
/// checked when the file is opened.
public struct GGUFArray: Sendable, Equatable {
    /// Type of the elements.
    public let elementType: GGUFValueType
    /// Number of elements.
    public let count: Int
    private let file: MappedFile
    private let range: Range<Int>

    init(elementType: GGUFValueType, count: Int, file: MappedFile, range: Range<Int>) {
        self.elementType = elementType
        self.count = count
        self.file = file
        self.range = range
    }

    /// An array of values. Precondition: all have the type `elementType`.
    public init(_ values: [GGUFValue], elementType: GGUFValueType) {
        var bytes: [UInt8] = []
        for value in values {
            precondition(value.type == elementType, "a \(value.type) in an array of \(elementType)")
            value.encode(into: &bytes)
        }
        self.init(elementType: elementType, count: values.count, bytes: bytes)
    }

    /// An array of strings.
    public init(_ strings: [String]) {
        var bytes: [UInt8] = []
        for string in strings { bytes.append(counted: string) }
        self.init(elementType: .string, count: strings.count, bytes: bytes)
    }

    /// An array of int32.
    public init(_ values: [Int32]) {
        self.init(
            elementType: .int32, count: values.count,
            bytes: values.flatMap { withUnsafeBytes(of: $0.littleEndian, Array.init) })
    }

    /// An array of float32.
    public init(_ values: [Float]) {
        self.init(
            elementType: .float32, count: values.count,
            bytes: values.flatMap { withUnsafeBytes(of: $0.bitPattern.littleEndian, Array.init) })
    }

    private init(elementType: GGUFValueType, count: Int, bytes: [UInt8]) {
        let file = MappedFile(copying: bytes, name: "array")
        self.init(elementType: elementType, count: count, file: file, range: 0..<bytes.count)
    }

    /// Calls `body` with the elements as the file stores them (little-endian; strings each after its length in 8 bytes).
    public func withBytes<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
        try file.withBytes(range, body)
    }

    /// Calls `body` with the bytes of each string, in order, without making a `String`. Precondition: an array of
    /// strings.
    public func forEachString(_ body: (UnsafeRawBufferPointer) throws -> Void) rethrows {
        precondition(elementType == .string, "strings of an array of \(elementType)")
        try withBytes { bytes in
            var position = 0
            for _ in 0..<count {
                let length = Int(UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: position, as: UInt64.self)))
                position += 8
                try body(UnsafeRawBufferPointer(rebasing: bytes[position..<position + length]))
                position += length
            }
        }
    }

    /// The strings, or nil when it is no array of strings. Bytes that are not UTF-8 become U+FFFD.
    public var strings: [String]? {
        guard elementType == .string else { return nil }
        var result: [String] = []
        result.reserveCapacity(count)
        forEachString { result.append(String(decoding: $0, as: UTF8.self)) }
        return result
    }

    /// The elements as integers, or nil when the type is another or a value does not fit.
    public var integers: [Int]? {
        switch elementType {
        case .uint8: map(UInt8.self) { Int($0) }
        case .int8: map(Int8.self) { Int($0) }
        case .uint16: map(UInt16.self) { Int($0) }
        case .int16: map(Int16.self) { Int($0) }
        case .uint32: map(UInt32.self) { Int($0) }
        case .int32: map(Int32.self) { Int($0) }
        case .uint64: map(UInt64.self) { Int(exactly: $0) }
        case .int64: map(Int64.self) { Int(exactly: $0) }
        default: nil
        }
    }

    /// The elements as numbers, or nil when it is no array of numbers.
    public var numbers: [Double]? {
        switch elementType {
        case .float32: map(UInt32.self) { Double(Float(bitPattern: $0)) }
        case .float64: map(UInt64.self) { Double(bitPattern: $0) }
        default: integers.map { $0.map(Double.init) }
        }
    }

    /// The elements as bools, or nil when it is no array of bools.
    public var bools: [Bool]? {
        elementType == .bool ? map(UInt8.self) { $0 != 0 } : nil
    }

    /// The first `limit` elements as values. Bytes of strings that are not UTF-8 become U+FFFD.
    public func values(limit: Int = .max) throws -> [GGUFValue] {
        var reader = GGUFReader(file: file, position: range.lowerBound, repairsText: true)
        return try (0..<min(count, limit)).map { index in
            try reader.value(elementType, place: "array element \(index)", depth: 0)
        }
    }

    private func map<T: FixedWidthInteger & BitwiseCopyable, R>(_ type: T.Type, _ convert: (T) -> R?) -> [R]? {
        var result: [R] = []
        result.reserveCapacity(count)
        for index in 0..<count {
            guard let raw = file.number(at: range.lowerBound + index * MemoryLayout<T>.size, as: T.self),
                let value = convert(raw)
            else { return nil }
            result.append(value)
        }
        return result
    }

    /// Whether two arrays have the same type and elements.
    public static func == (a: GGUFArray, b: GGUFArray) -> Bool {
        guard a.elementType == b.elementType, a.count == b.count, a.range.count == b.range.count else { return false }
        return a.withBytes { left in b.withBytes { right in left.elementsEqual(right) } }
    }
}
