import ApusTensor
import ApusText

/// One safetensors file, memory-mapped (source: the safetensors format: 8 bytes header length, JSON header, data).
///
/// Opening checks the whole header against the file's size: the tensors must cover the data from its first to its last
/// byte, without gap or overlap, each as long as shape and dtype say.
public struct SafetensorsFile: Sendable {
    /// One tensor's entry in the header.
    public struct TensorInfo: Sendable, Equatable {
        /// Its name.
        public let name: String
        /// Its element type, which need not be one that can be used.
        public let type: SafetensorsDType
        /// Extents, outermost first.
        public let extents: [Int]
        /// Offset of its first byte in the file.
        public let offset: Int
        /// Bytes it takes.
        public let byteCount: Int
    }

    /// The file.
    public let file: MappedFile
    /// The header's `__metadata__`, in its order.
    public let metadata: [(key: String, value: String)]
    /// The tensors, in the order of their data.
    public let tensors: [TensorInfo]
    private let index: [String: Int]

    /// The longest header that is read, as in the reference implementation.
    public static let maximumHeaderByteCount = 100_000_000

    /// Opens and checks the file at `path`.
    public init(path: String) throws {
        try self.init(MappedFile(path: path))
    }

    /// Checks a file that is already in memory.
    public init(_ file: MappedFile) throws {
        self.file = file
        let range = try Self.headerRange(file)
        let root = try JSONNode(
            file.withBytes(range) { try JSONValue(parsing: $0, duplicateKeys: .refused) }, name: file.name)
        var entries: [TensorInfo] = []
        var metadata: [(key: String, value: String)] = []
        for (key, node) in try root.members() {
            if key == "__metadata__" {
                metadata = try node.members().map { ($0.key, try $0.node.string()) }
            } else {
                entries.append(try Self.info(key, node, file: file, dataStart: range.upperBound))
            }
        }
        entries.sort { ($0.offset, $0.byteCount) < ($1.offset, $1.byteCount) }
        try Self.checkCover(entries, file: file, dataStart: range.upperBound)
        self.metadata = metadata
        tensors = entries
        var index: [String: Int] = [:]
        index.reserveCapacity(entries.count)
        for (number, info) in entries.enumerated() where index.updateValue(number, forKey: info.name) != nil {
            throw ModelFileError.malformed(
                file: file.name, place: "tensors", expected: "distinct names",
                found: "two that are \(info.name.abbreviated()) in Unicode's eyes")
        }
        self.index = index
    }

    /// The entry of a tensor, or nil when there is none of this name.
    public func info(_ name: String) -> TensorInfo? { index[name].map { tensors[$0] } }

    /// A tensor that shares the file's bytes, or a copy where they are not aligned. Throws when there is none of this
    /// name or its dtype or rank cannot be used.
    public func tensor(named name: String) throws -> Tensor {
        guard let info = info(name) else { throw ModelFileError.missingTensor(file: file.name, tensor: name) }
        guard let dtype = info.type.dtype else {
            throw ModelFileError.unsupported(
                file: file.name, what: "tensor \(name): dtype", found: info.type.description,
                supported: SafetensorsDType.supportedNames)
        }
        guard info.extents.count <= Shape.maximumRank else {
            throw ModelFileError.tensorShape(
                file: file.name, tensor: name, expected: "at most \(Shape.maximumRank) dimensions",
                found: "\(info.extents.count)")
        }
        return try file.tensor(at: info.offset, shape: Shape(info.extents), dtype: dtype, byteCount: info.byteCount)
    }

    private static func headerRange(_ file: MappedFile) throws -> Range<Int> {
        func malformed(_ expected: String, _ found: String) -> ModelFileError {
            .malformed(file: file.name, place: "header length", expected: expected, found: found)
        }
        guard let length = file.number(at: 0, as: UInt64.self) else {
            throw malformed("8 bytes", "a file of \(file.byteCount)")
        }
        guard length <= UInt64(maximumHeaderByteCount) else {
            throw malformed("at most \(maximumHeaderByteCount)", "\(length)")
        }
        guard file.contains(8, Int(length)) else {
            throw malformed("at most the \(file.byteCount - 8) bytes that follow", "\(length)")
        }
        let range = 8..<8 + Int(length)
        guard file.withBytes(range, { $0.first == UInt8(ascii: "{") }) else {
            throw ModelFileError.malformed(
                file: file.name, place: "header", expected: "a JSON object", found: "another first byte")
        }
        return range
    }

    private static func info(_ name: String, _ node: JSONNode, file: MappedFile, dataStart: Int) throws -> TensorInfo {
        func malformed(_ expected: String, _ found: String) -> ModelFileError {
            .malformed(file: file.name, place: "tensor \(name.abbreviated())", expected: expected, found: found)
        }
        let typeName = try node.string("dtype")
        guard let type = SafetensorsDType(name: typeName) else {
            throw ModelFileError.unsupported(
                file: file.name, what: "tensor \(name.abbreviated()): dtype", found: typeName.abbreviated(),
                supported: SafetensorsDType.supportedNames)
        }
        let extents = try node.child("shape", expected: "an array of integers").elements().map {
            try $0.int(in: 0...Int.max)
        }
        // Zero extents count as one here, so that no product of any of them overflows later.
        var bound = 1
        for extent in extents {
            let (product, overflow) = bound.multipliedReportingOverflow(by: max(extent, 1))
            guard !overflow else { throw malformed("fewer than 2^63 elements", "shape \(extents)") }
            bound = product
        }
        let elements = extents.contains(0) ? 0 : bound
        guard type.byteCount(elements: bound) != nil || elements == 0, let bytes = type.byteCount(elements: elements)
        else {
            throw malformed("a whole number of bytes below 2^63", "shape \(extents) of \(type)")
        }
        let offsets = try node.child("data_offsets", expected: "two integers").elements().map {
            try $0.int(in: 0...Int.max)
        }
        guard offsets.count == 2, offsets[0] <= offsets[1], offsets[1] <= file.byteCount - dataStart else {
            throw malformed(
                "data_offsets [begin, end] within the \(file.byteCount - dataStart) bytes of data", "\(offsets)")
        }
        guard offsets[1] - offsets[0] == bytes else {
            throw malformed(
                "\(bytes) bytes of data for shape \(extents) of \(type)", "\(offsets[1] - offsets[0]) (\(offsets))")
        }
        return TensorInfo(
            name: name, type: type, extents: extents, offset: dataStart + offsets[0], byteCount: bytes)
    }

    private static func checkCover(_ sorted: [TensorInfo], file: MappedFile, dataStart: Int) throws {
        var position = dataStart
        for info in sorted {
            guard info.offset == position else {
                throw ModelFileError.malformed(
                    file: file.name, place: "tensor \(info.name.abbreviated())",
                    expected: "data from byte \(position - dataStart), right after the tensor before it",
                    found: "from byte \(info.offset - dataStart)")
            }
            position += info.byteCount
        }
        guard position == file.byteCount else {
            throw ModelFileError.malformed(
                file: file.name, place: "data", expected: "\(position - dataStart) bytes, as the tensors say",
                found: "\(file.byteCount - dataStart)")
        }
    }
}
