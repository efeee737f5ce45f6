import ApusTensor
import ApusText

/// The tensors of one safetensors file or of several that an index (`model.safetensors.index.json`) names.
public struct SafetensorsSet: Sendable {
    /// The single file, or the index, for messages.
    public let name: String
    /// The files, each opened and checked.
    public let files: [SafetensorsFile]
    private let index: [String: Int]

    /// Names of the two layouts inside a folder.
    static let singleName = "model.safetensors"
    static let indexName = "model.safetensors.index.json"

    /// A set of one file.
    public init(_ file: SafetensorsFile) {
        name = file.file.name
        files = [file]
        index = Dictionary(uniqueKeysWithValues: file.tensors.map { ($0.name, 0) })
    }

    /// The model in a folder: `model.safetensors`, or the files its index names.
    public init(folder: String) throws {
        let single = FilePath.join(folder, Self.singleName)
        let index = FilePath.join(folder, Self.indexName)
        if !FilePath.isFile(single) && FilePath.isFile(index) {
            try self.init(indexPath: index)
        } else {
            self.init(try SafetensorsFile(path: single))
        }
    }

    /// The files that an index names; they lie beside it.
    public init(indexPath: String) throws {
        let file = try MappedFile(path: indexPath)
        let map = try Self.weightMap(file)
        name = indexPath
        var numbers: [String: Int] = [:]
        var files: [SafetensorsFile] = []
        var index: [String: Int] = [:]
        for (tensor, shard) in map {
            let number: Int
            if let known = numbers[shard] {
                number = known
            } else {
                number = files.count
                files.append(try SafetensorsFile(path: FilePath.join(FilePath.folder(of: indexPath), shard)))
                numbers[shard] = number
            }
            guard files[number].info(tensor) != nil else {
                throw ModelFileError.missingTensor(file: files[number].file.name, tensor: tensor)
            }
            index[tensor] = number
        }
        self.files = files
        self.index = index
    }

    /// Which file holds which tensor, from an index; file names that would leave the folder are refused.
    static func weightMap(_ file: MappedFile) throws -> [(tensor: String, shard: String)] {
        let map = try file.json(duplicateKeys: .refused).child("weight_map", expected: "an object")
        return try map.members().map { tensor, node in
            let shard = try node.string()
            guard !shard.isEmpty, shard != ".", shard != "..", !shard.utf8.contains(UInt8(ascii: "/")),
                !shard.utf8.contains(0)
            else { throw node.error(expected: "the name of a file in the same folder") }
            return (tensor, shard)
        }
    }

    /// Names of all tensors, file after file.
    public var tensorNames: [String] {
        files.enumerated().flatMap { number, file in
            file.tensors.map(\.name).filter { index[$0] == number }
        }
    }

    /// Whether there is a tensor of this name.
    public func hasTensor(named name: String) -> Bool { index[name] != nil }

    /// The file that holds a tensor, or nil.
    public func file(holding name: String) -> SafetensorsFile? { index[name].map { files[$0] } }

    /// A tensor; see ``SafetensorsFile/tensor(named:)``.
    public func tensor(named name: String) throws -> Tensor {
        guard let file = file(holding: name) else {
            throw ModelFileError.missingTensor(file: self.name, tensor: name)
        }
        return try file.tensor(named: name)
    }
}
