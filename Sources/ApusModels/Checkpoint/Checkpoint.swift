import ApusTensor

/// A model's files, whatever their format: configuration, weights, and where text comes from.
public protocol Checkpoint: Sendable {
    /// The file or folder, for messages.
    var name: String { get }
    /// What the model is; validated.
    var configuration: DecoderConfiguration { get }
    /// How its files name the weights.
    var tensorNaming: TensorNames { get }
    /// How its makers recommend to sample from it.
    var generationDefaults: GenerationDefaults { get }
    /// Its tokenizer.
    var tokenizer: TokenizerSource { get }
    /// Its chat template (Jinja), or nil when it has none. Throws when a file that should hold it cannot be read.
    func chatTemplate() throws -> String?
    /// Names of all tensors in its files.
    var tensorNames: [String] { get }
    /// Whether it has a tensor of this name.
    func hasTensor(named name: String) -> Bool
    /// The tensor of this name; shares the file's bytes where it can.
    func tensor(named name: String) throws -> Tensor
}

/// Where a model keeps its tokenizer.
public enum TokenizerSource: Sendable {
    /// In GGUF metadata, under `tokenizer.ggml.`.
    case gguf(GGUFMetadata)
    /// In a `tokenizer.json` at this path.
    case file(String)
    /// The text of a `tokenizer.json`, in GGUF metadata that also names its tokens.
    case text(String, GGUFMetadata)
    /// Nowhere.
    case none
}

extension Checkpoint {
    /// The file's name for a weight.
    public func name(of role: TensorRole) -> String { tensorNaming.name(of: role) }

    /// A weight, its shape held against the configuration and its dtype one that computes.
    public func tensor(_ role: TensorRole) throws -> Tensor {
        let name = name(of: role)
        let tensor =
            try joinedLatentUp(role) ?? tensorNaming.slice(of: role).map { try slice($0, of: name) }
            ?? tensor(named: name)
        let shape = configuration.shape(of: role)
        guard tensor.shape == shape else {
            throw ModelFileError.tensorShape(
                file: self.name, tensor: name, expected: shape.description, found: tensor.shape.description)
        }
        guard tensor.dtype.isFloatingPoint else {
            throw ModelFileError.tensorDType(
                file: self.name, tensor: name, expected: "a floating-point or quantised dtype",
                found: tensor.dtype.rawValue)
        }
        return tensor
    }

    /// Part `index` of a tensor's first axis.
    private func slice(_ index: Int, of name: String) throws -> Tensor {
        let whole = try tensor(named: name)
        guard whole.shape.rank >= 2, index < whole.shape[0] else {
            throw ModelFileError.tensorShape(
                file: self.name, tensor: name, expected: "more than \(index) parts", found: whole.shape.description)
        }
        return whole.rows(index..<index + 1).reshaped(Shape(whole.shape.dims.dropFirst()))
    }

    /// A weight without NaN or infinity: as ``tensor(_:)``, and every element (of quantised blocks every scale) is
    /// read once, at the speed of memory. Independent of other calls, so that a loader can check weights in parallel.
    public func finiteTensor(_ role: TensorRole) throws -> Tensor {
        let tensor = try tensor(role)
        if let element = tensor.firstNotFinite() {
            throw ModelFileError.notFinite(file: name, tensor: name(of: role), element: element)
        }
        return tensor
    }
}

/// Opens checkpoints by their path.
public enum Checkpoints {
    /// Opens a `.gguf` file, a `.safetensors` file with `config.json` beside it, or a Hugging Face folder (which any JSON
    /// file inside it stands for).
    ///
    /// Reads headers and configuration only. What a file is, its first bytes say; its name does not matter.
    public static func open(_ path: String) throws -> any Checkpoint {
        if FilePath.isFolder(path) { return try HuggingFaceCheckpoint(folder: path) }
        let file = try MappedFile(path: path)
        if file.starts(with: "GGUF") { return try GGUFCheckpoint(GGUFFile(file)) }
        if file.isJSONObject { return try HuggingFaceCheckpoint(folder: FilePath.folder(of: path)) }
        return try HuggingFaceCheckpoint(file: file)
    }
}
