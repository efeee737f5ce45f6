import ApusTensor

/// A GGUF file of version 2 or 3, memory-mapped (source: the GGUF specification in ggml's `docs/gguf.md`).
///
/// Opening reads header, metadata and the list of tensors and checks all of it against the file's size; the tensors'
/// bytes are touched only when used. Costs time in proportion to the header, and memory for keys and names only.
public struct GGUFFile: Sendable {
    /// One tensor's entry in the header.
    public struct TensorInfo: Sendable, Equatable {
        /// Its name.
        public let name: String
        /// Its element type, which need not be one that can be used.
        public let type: GGUFTensorType
        /// Extents, outermost first (the file stores them innermost first).
        public let extents: [Int]
        /// Offset of its first byte in the file.
        public let offset: Int
        /// Bytes it takes, or nil when the type is unknown.
        public let byteCount: Int?
    }

    /// The file.
    public let file: MappedFile
    /// Version of the format: 2 or 3.
    public let version: Int
    /// Tensors start at multiples of this many bytes.
    public let alignment: Int
    /// The metadata, in the file's order.
    public let metadata: GGUFMetadata
    /// The tensors, in the file's order.
    public let tensors: [TensorInfo]
    private let index: [String: Int]

    static let maximumRank = 4
    private static let magic: UInt32 = 0x4655_4747

    /// Opens and checks the file at `path`.
    public init(path: String) throws {
        try self.init(MappedFile(path: path))
    }

    /// Checks a file that is already in memory.
    public init(_ file: MappedFile) throws {
        self.file = file
        var reader = GGUFReader(file: file, position: 0)
        let magic = try reader.number(UInt32.self, "magic")
        guard magic == Self.magic else {
            throw reader.malformed("magic", expected: "\"GGUF\"", found: "0x" + String(magic.byteSwapped, radix: 16))
        }
        let version = try reader.number(UInt32.self, "version")
        if version != 0 && version & 0xffff == 0 {
            throw ModelFileError.unsupported(
                file: file.name, what: "byte order", found: "big-endian", supported: "little-endian")
        }
        guard version == 2 || version == 3 else {
            throw ModelFileError.unsupported(
                file: file.name, what: "GGUF version", found: "\(version)", supported: "2, 3")
        }
        self.version = Int(version)
        // Fewest bytes: a tensor has name length 8, rank 4, type 4, offset 8; a key has length 8, type 4, value 1.
        let tensorCount = try reader.count(minimum: 24, "tensor count")
        let keyCount = try reader.count(minimum: 13, "metadata count")
        metadata = try GGUFMetadata(&reader, count: keyCount)
        let alignment = try metadata.alignment()
        var entries: [Entry] = []
        entries.reserveCapacity(tensorCount)
        for number in 0..<tensorCount { entries.append(try Entry(&reader, number: number)) }
        let start = entries.isEmpty ? reader.position : (reader.position + alignment - 1) / alignment * alignment
        let tensors = try entries.map { try $0.info(dataStart: start, alignment: alignment, reader) }
        try Self.checkOverlap(tensors, reader)
        index = try Self.index(tensors, reader)
        self.alignment = alignment
        self.tensors = tensors
    }

    /// The entry of a tensor, or nil when there is none of this name.
    public func info(_ name: String) -> TensorInfo? { index[name].map { tensors[$0] } }

    /// A tensor that shares the file's bytes. Throws when there is none of this name or its type cannot be used.
    public func tensor(named name: String) throws -> Tensor {
        guard let info = info(name) else { throw ModelFileError.missingTensor(file: file.name, tensor: name) }
        guard let dtype = info.type.dtype, let bytes = info.byteCount else {
            throw ModelFileError.unsupported(
                file: file.name, what: "tensor \(name): type", found: info.type.description,
                supported: GGUFTensorType.supportedNames)
        }
        return try file.tensor(at: info.offset, shape: Shape(info.extents), dtype: dtype, byteCount: bytes)
    }

    private struct Entry {
        let name: String
        let extents: [Int]
        let elements: Int
        let type: GGUFTensorType
        let relativeOffset: UInt64

        init(_ reader: inout GGUFReader, number: Int) throws {
            let name = try reader.string("name of tensor \(number)", limit: 1024)
            self.name = name
            let place = "tensor \(name.abbreviated())"
            let rank = try reader.number(UInt32.self, place + ": rank")
            guard rank <= maximumRank else {
                throw reader.malformed(place + ": rank", expected: "at most \(maximumRank)", found: "\(rank)")
            }
            var extents: [Int] = []
            var product = 1
            for _ in 0..<rank {
                let raw = try reader.number(UInt64.self, place + ": extent")
                guard let extent = Int(exactly: raw), extent > 0 else {
                    throw reader.malformed(place + ": extent", expected: "1 to 2^63 - 1", found: "\(raw)")
                }
                let (next, overflow) = product.multipliedReportingOverflow(by: extent)
                guard !overflow else {
                    throw reader.malformed(place + ": extents", expected: "fewer than 2^63 elements", found: "more")
                }
                product = next
                extents.append(extent)
            }
            self.extents = extents.reversed()
            elements = product
            type = GGUFTensorType(rawValue: try reader.number(UInt32.self, place + ": type"))
            relativeOffset = try reader.number(UInt64.self, place + ": offset")
        }

        func info(dataStart: Int, alignment: Int, _ reader: GGUFReader) throws -> TensorInfo {
            let place = "tensor \(name.abbreviated())"
            guard relativeOffset % UInt64(alignment) == 0 else {
                throw reader.malformed(
                    place + ": offset", expected: "a multiple of \(alignment)", found: "\(relativeOffset)")
            }
            let size = reader.file.byteCount
            guard let relative = Int(exactly: relativeOffset), relative <= size, relative <= size - dataStart else {
                throw reader.malformed(
                    place + ": offset", expected: "at most the \(max(0, size - dataStart)) bytes of tensor data",
                    found: "\(relativeOffset)")
            }
            let row = extents.last ?? 1
            let bytes = type.byteCount(row: row, rows: elements / row)
            if let blockSize = type.blockSize, row % blockSize != 0 {
                throw reader.malformed(
                    place, expected: "rows of a multiple of \(blockSize) elements for \(type)", found: "\(row)")
            }
            if type.blockSize != nil {
                guard let bytes, bytes <= size - dataStart - relative else {
                    throw reader.malformed(
                        place, expected: bytes.map { "\($0) bytes of data" } ?? "a size below 2^63",
                        found: "\(size - dataStart - relative) bytes before the end of the file")
                }
            }
            return TensorInfo(
                name: name, type: type, extents: extents, offset: dataStart + relative, byteCount: bytes)
        }
    }

    private static func index(_ tensors: [TensorInfo], _ reader: GGUFReader) throws -> [String: Int] {
        var index: [String: Int] = [:]
        index.reserveCapacity(tensors.count)
        for (position, info) in tensors.enumerated() where index.updateValue(position, forKey: info.name) != nil {
            throw reader.malformed("tensors", expected: "distinct names", found: "\(info.name.abbreviated()) twice")
        }
        return index
    }

    private static func checkOverlap(_ tensors: [TensorInfo], _ reader: GGUFReader) throws {
        let sorted = tensors.sorted { ($0.offset, $0.byteCount ?? 0) < ($1.offset, $1.byteCount ?? 0) }
        for (before, after) in zip(sorted, sorted.dropFirst()) {
            // An unknown type's size is unknown, but it has at least its first byte.
            guard before.offset + (before.byteCount ?? 1) <= after.offset else {
                throw reader.malformed(
                    "tensors", expected: "data that does not overlap",
                    found: "\(before.name.abbreviated()) over \(after.name.abbreviated())")
            }
        }
    }
}
