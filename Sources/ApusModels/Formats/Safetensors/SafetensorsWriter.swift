import ApusTensor
import ApusText

/// Writes tensors as safetensors, in one file or in shards with an index, atomically (see ``AtomicFile``).
///
///     var writer = SafetensorsWriter()
///     writer.add("model.norm.weight", shape: [768], dtype: .f32)
///     try writer.write(to: "model.safetensors") { name in weights[name]! }
public struct SafetensorsWriter {
    private struct Entry {
        let name: String
        let shape: Shape
        let dtype: DType
    }

    private var entries: [Entry] = []
    private var names: Set<String> = []
    private let metadata: [(key: String, value: String)]

    /// Nothing to write yet. `metadata` becomes the header's `__metadata__`; transformers wants to find `format`.
    public init(metadata: [(key: String, value: String)] = [("format", "pt")]) {
        self.metadata = metadata
    }

    /// Announces a tensor. Precondition: a name not used yet, and not `__metadata__`.
    public mutating func add(_ name: String, shape: Shape, dtype: DType) {
        precondition(name != "__metadata__" && names.insert(name).inserted, "tensor \(name) twice")
        entries.append(Entry(name: name, shape: shape, dtype: dtype))
    }

    /// Writes one file; `tensor` gives each announced tensor when its turn comes. Throws ``ModelFileError`` when a
    /// dtype has no place in safetensors, a tensor differs from its announcement, or the system refuses to write; the
    /// file at `path` is then as before.
    public func write(to path: String, tensor: (String) throws -> Tensor) throws {
        try Self.write(entries, metadata: metadata, to: path, tensor).publish()
    }

    /// Writes a model into a folder: `model.safetensors`, or, where the tensors take more than `shardByteCount`, shards
    /// of at most that (a larger tensor stands alone) and `model.safetensors.index.json`. What an earlier save left and
    /// the new one does not use is removed. All data is on the disk before the first file of an earlier save is
    /// replaced.
    public func write(folder: String, shardByteCount: Int, tensor: (String) throws -> Tensor) throws {
        let shards = shards(limit: shardByteCount)
        let names =
            shards.count == 1
            ? [SafetensorsSet.singleName]
            : shards.indices.map { Self.shardName($0 + 1, of: shards.count) }
        let indexPath = FilePath.join(folder, SafetensorsSet.indexName)
        let stale = Self.savedFiles(folder: folder, indexPath: indexPath)
        var files = try zip(shards, names).map { shard, name in
            try Self.write(shard, metadata: metadata, to: FilePath.join(folder, name), tensor)
        }
        if shards.count > 1 { files.append(try Self.index(shards, names, path: indexPath)) }
        for file in files { try file.publish() }
        for path in stale.subtracting(files.map(\.path)) { FilePath.remove(path) }
    }

    private func shards(limit: Int) -> [[Entry]] {
        var shards: [[Entry]] = [[]]
        var size = 0
        for entry in entries {
            let bytes = Tensor.byteCount(shape: entry.shape, dtype: entry.dtype) ?? 0
            if size + bytes > limit && size > 0 {
                shards.append([])
                size = 0
            }
            shards[shards.count - 1].append(entry)
            size += bytes
        }
        return shards
    }

    private static func shardName(_ number: Int, of count: Int) -> String {
        func digits(_ value: Int) -> String {
            let text = String(value)
            return String(repeating: "0", count: max(0, 5 - text.count)) + text
        }
        return "model-\(digits(number))-of-\(digits(count)).safetensors"
    }

    /// Files of an earlier save. An index that cannot be read names none.
    private static func savedFiles(folder: String, indexPath: String) -> Set<String> {
        var paths: Set<String> = []
        let single = FilePath.join(folder, SafetensorsSet.singleName)
        if FilePath.isFile(single) { paths.insert(single) }
        if let file = try? MappedFile(path: indexPath) {
            paths.insert(indexPath)
            for (_, shard) in (try? SafetensorsSet.weightMap(file)) ?? [] {
                paths.insert(FilePath.join(folder, shard))
            }
        }
        return paths
    }

    private static func index(_ shards: [[Entry]], _ names: [String], path: String) throws -> AtomicFile {
        var map = JSONObject()
        var total = 0
        for (shard, name) in zip(shards, names) {
            for entry in shard {
                map[entry.name] = .string(name)
                total += Tensor.byteCount(shape: entry.shape, dtype: entry.dtype) ?? 0
            }
        }
        let index: JSONValue = ["metadata": ["total_size": .integer(Int64(total))], "weight_map": .object(map)]
        let file = try AtomicFile(path: path)
        try file.write(Array((index.serialized(.pretty) + "\n").utf8))
        try file.finish()
        return file
    }

    /// Writes and finishes a file without renaming it. The widest elements come first, so that every tensor is aligned.
    private static func write(
        _ entries: [Entry], metadata: [(key: String, value: String)], to path: String,
        _ tensor: (String) throws -> Tensor
    ) throws -> AtomicFile {
        let sorted = entries.sorted {
            ($1.dtype.bytesPerBlock, $0.name) < ($0.dtype.bytesPerBlock, $1.name)
        }
        let file = try AtomicFile(path: path)
        try file.write(try header(sorted, metadata: metadata, path: path))
        for entry in sorted {
            let value = try tensor(entry.name)
            try value.requireAnnounced(file: path, name: entry.name, shape: entry.shape, dtype: entry.dtype)
            try value.withContiguousBytes { try file.write($0) }
        }
        try file.finish()
        return file
    }

    private static func header(
        _ entries: [Entry], metadata: [(key: String, value: String)], path: String
    ) throws -> [UInt8] {
        var root = JSONObject()
        if !metadata.isEmpty {
            root["__metadata__"] = .object(JSONObject(metadata.map { ($0.key, .string($0.value)) }))
        }
        var offset = 0
        for entry in entries {
            guard let type = SafetensorsDType(entry.dtype),
                let bytes = Tensor.byteCount(shape: entry.shape, dtype: entry.dtype)
            else {
                throw ModelFileError.tensorDType(
                    file: path, tensor: entry.name, expected: SafetensorsDType.supportedNames,
                    found: entry.dtype.rawValue)
            }
            root[entry.name] = [
                "dtype": .string(type.description),
                "shape": .array(entry.shape.dims.map { .integer(Int64($0)) }),
                "data_offsets": [.integer(Int64(offset)), .integer(Int64(offset + bytes))],
            ]
            offset += bytes
        }
        var text = Array(JSONValue.object(root).serialized().utf8)
        text += Array(repeating: UInt8(ascii: " "), count: (8 - text.count % 8) % 8)
        guard text.count <= SafetensorsFile.maximumHeaderByteCount else {
            throw ModelFileError.malformed(
                file: path, place: "header", expected: "at most \(SafetensorsFile.maximumHeaderByteCount) bytes",
                found: "\(text.count)")
        }
        var bytes: [UInt8] = []
        bytes.append(littleEndian: UInt64(text.count))
        return bytes + text
    }
}
