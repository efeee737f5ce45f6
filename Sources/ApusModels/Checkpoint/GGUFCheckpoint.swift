import ApusTensor

/// A model in one GGUF file.
public struct GGUFCheckpoint: Checkpoint {
    /// The file.
    public let file: GGUFFile
    /// What the model is; validated.
    public let configuration: DecoderConfiguration
    /// How its makers recommend to sample from it.
    public let generationDefaults: GenerationDefaults

    /// Reads configuration and generation defaults from an opened file.
    public init(_ file: GGUFFile) throws {
        if let parts = try file.metadata.integer("split.count"), parts > 1 {
            throw ModelFileError.unsupported(
                file: file.file.name, what: "key split.count", found: "\(parts)", supported: "1: a model in one file")
        }
        self.file = file
        configuration = try DecoderConfiguration(gguf: file)
        generationDefaults = try GenerationDefaults(gguf: file.metadata)
    }

    /// The path.
    public var name: String { file.file.name }
    /// How its files name the weights.
    public var tensorNaming: TensorNames { .gguf }
    /// The tokenizer in the metadata, a whole `tokenizer.json` before ggml's vocabulary, unless the file says `none`.
    public var tokenizer: TokenizerSource {
        if let text = file.metadata[Self.tokenizerKey]?.string { return .text(text, file.metadata) }
        let model = file.metadata["tokenizer.ggml.model"]
        return model == nil || model == .string("none") ? .none : .gguf(file.metadata)
    }
    /// GGUF's key for a whole `tokenizer.json`.
    static let tokenizerKey = "tokenizer.huggingface.json"
    /// Names of all tensors.
    public var tensorNames: [String] { file.tensors.map(\.name) }

    /// `tokenizer.chat_template`.
    public func chatTemplate() throws -> String? { try file.metadata.string("tokenizer.chat_template") }
    /// Whether it has a tensor of this name.
    public func hasTensor(named name: String) -> Bool { file.info(name) != nil }
    /// A tensor; see ``GGUFFile/tensor(named:)``.
    public func tensor(named name: String) throws -> Tensor { try file.tensor(named: name) }
}
