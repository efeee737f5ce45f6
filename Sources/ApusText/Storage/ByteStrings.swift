/// Many byte strings in one block of memory: a vocabulary of 50,000 tokens costs two allocations.
public struct ByteStrings: Sendable {
    private var bytes: [UInt8] = []
    private var ends: [Int] = []

    /// No strings.
    public init() {}

    /// These strings as UTF-8.
    public init(_ strings: some Sequence<String>) {
        for string in strings { append(string) }
    }

    /// Makes room for `count` strings of `byteCount` bytes in all.
    public mutating func reserve(count: Int, byteCount: Int) {
        ends.reserveCapacity(count)
        bytes.reserveCapacity(byteCount)
    }

    /// Appends one string.
    public mutating func append(_ string: UnsafeRawBufferPointer) {
        bytes.append(contentsOf: string)
        ends.append(bytes.count)
    }

    /// Appends one string as UTF-8.
    public mutating func append(_ string: String) {
        bytes.append(contentsOf: string.utf8)
        ends.append(bytes.count)
    }

    /// The number of strings.
    public var count: Int { ends.count }

    /// The bytes of all strings together.
    public var byteCount: Int { bytes.count }

    /// The bytes of the string at `index`.
    public subscript(index: Int) -> ArraySlice<UInt8> { bytes[range(index)] }

    /// Calls `body` with the bytes of the string at `index`, without copying them.
    public func withBytes<Result>(at index: Int, _ body: (UnsafeBufferPointer<UInt8>) throws -> Result) rethrows
        -> Result
    {
        let range = range(index)
        return try bytes.withUnsafeBufferPointer { try body(UnsafeBufferPointer(rebasing: $0[range])) }
    }

    private func range(_ index: Int) -> Range<Int> { (index == 0 ? 0 : ends[index - 1])..<ends[index] }
}
