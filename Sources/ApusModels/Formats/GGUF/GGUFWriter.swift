import ApusTensor

/// Writes a GGUF file of version 3: metadata and tensors, atomically (see ``AtomicFile``).
///
///     var writer = GGUFWriter()
///     writer.set("general.architecture", .string("llama"))
///     writer.add("token_embd.weight", shape: [32000, 768], dtype: .bf16)
///     try writer.write(to: path) { name in weights[name]! }
public struct GGUFWriter {
    private struct Entry {
        let name: String
        let shape: Shape
        let dtype: DType
    }

    private var metadata: [(key: String, value: GGUFValue)] = []
    private var tensors: [Entry] = []
    private let alignment: Int

    /// An empty file whose tensors start at multiples of `alignment` bytes. Precondition: a power of two.
    public init(alignment: Int = 32) {
        precondition(alignment > 0 && alignment & (alignment - 1) == 0, "alignment \(alignment) is no power of two")
        self.alignment = alignment
        if alignment != 32 { set("general.alignment", .uint32(UInt32(alignment))) }
    }

    /// Sets a metadata value; one set earlier under the same key is replaced.
    public mutating func set(_ key: String, _ value: GGUFValue) {
        if let index = metadata.firstIndex(where: { $0.key == key }) {
            metadata[index].value = value
        } else {
            metadata.append((key, value))
        }
    }

    /// Announces a tensor. Precondition: a name not used yet.
    public mutating func add(_ name: String, shape: Shape, dtype: DType) {
        precondition(!tensors.contains { $0.name == name }, "tensor \(name) twice")
        tensors.append(Entry(name: name, shape: shape, dtype: dtype))
    }

    /// Writes the file; `tensor` gives each announced tensor when its turn comes, so that only one needs to be in
    /// memory. Throws ``ModelFileError`` when a dtype or rank has no place in GGUF, a tensor differs from its
    /// announcement, or the system refuses to write; the file at `path` is then as before.
    public func write(to path: String, tensor: (String) throws -> Tensor) throws {
        let header = try header(path)
        let file = try AtomicFile(path: path)
        try file.write(header)
        for entry in tensors {
            let value = try tensor(entry.name)
            try value.requireAnnounced(file: path, name: entry.name, shape: entry.shape, dtype: entry.dtype)
            try file.pad(to: alignment)
            try value.withContiguousBytes { try file.write($0) }
        }
        try file.publish()
    }

    private func header(_ path: String) throws -> [UInt8] {
        var bytes: [UInt8] = Array("GGUF".utf8)
        bytes.append(littleEndian: UInt32(3))
        bytes.append(littleEndian: UInt64(tensors.count))
        bytes.append(littleEndian: UInt64(metadata.count))
        for (key, value) in metadata {
            bytes.append(counted: key)
            bytes.append(littleEndian: value.type.rawValue)
            value.encode(into: &bytes)
        }
        var offset = 0
        for entry in tensors {
            guard let type = GGUFTensorType(entry.dtype),
                let size = Tensor.byteCount(shape: entry.shape, dtype: entry.dtype)
            else {
                throw ModelFileError.tensorDType(
                    file: path, tensor: entry.name, expected: GGUFTensorType.supportedNames, found: entry.dtype.rawValue
                )
            }
            guard entry.shape.rank <= GGUFFile.maximumRank, entry.shape.count > 0 else {
                throw ModelFileError.tensorShape(
                    file: path, tensor: entry.name, expected: "at most \(GGUFFile.maximumRank) dimensions, none empty",
                    found: entry.shape.description)
            }
            bytes.append(counted: entry.name)
            bytes.append(littleEndian: UInt32(entry.shape.rank))
            for extent in entry.shape.dims.reversed() { bytes.append(littleEndian: UInt64(extent)) }
            bytes.append(littleEndian: type.rawValue)
            bytes.append(littleEndian: UInt64(offset))
            offset = (offset + size + alignment - 1) / alignment * alignment
        }
        return bytes
    }
}
