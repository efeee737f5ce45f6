import ApusTensor
import ApusText

/// A model as Hugging Face's transformers saves it: `config.json`, safetensors, and what lies beside them.
public struct HuggingFaceCheckpoint: Checkpoint {
    /// The weights.
    public let weights: SafetensorsSet
    /// The folder, or the weights' path where that was given.
    public let name: String
    /// What the model is; validated.
    public let configuration: DecoderConfiguration
    /// How its files name the weights.
    public let tensorNaming: TensorNames
    /// How its makers recommend to sample from it.
    public let generationDefaults: GenerationDefaults
    private let folder: String

    /// Opens a folder with `config.json` and `model.safetensors` or its index.
    public init(folder: String) throws {
        try self.init(name: folder, folder: folder) { try SafetensorsSet(folder: folder) }
    }

    /// Opens a safetensors file with `config.json` beside it.
    public init(file: MappedFile) throws {
        try self.init(name: file.name, folder: FilePath.folder(of: file.name)) {
            SafetensorsSet(try SafetensorsFile(file))
        }
    }

    private init(name: String, folder: String, weights open: () throws -> SafetensorsSet) throws {
        self.name = name
        self.folder = folder
        let weights = try open()
        let path = FilePath.join(folder, "config.json")
        var configuration = try Self.configuration(MappedFile(path: path), weights)
        let generationPath = FilePath.join(folder, "generation_config.json")
        if FilePath.isFile(generationPath) {
            generationDefaults = try GenerationDefaults(
                json: try MappedFile(path: generationPath).json(), file: generationPath)
        } else {
            generationDefaults = GenerationDefaults()
        }
        // Transformers' generation goes by generation_config.json where it says something.
        if !generationDefaults.eosTokens.isEmpty {
            configuration.eosTokens = generationDefaults.eosTokens
            configuration.dropForeignTokens()
        }
        tensorNaming = Self.naming(configuration, weights)
        let query = tensorNaming.name(of: .layer(0, .output))
        if let dtype = weights.file(holding: query)?.info(query)?.type.dtype { configuration.weightDType = dtype }
        self.configuration = configuration
        self.weights = weights
    }

    /// `tokenizer.json`, where there is one.
    public var tokenizer: TokenizerSource {
        let path = FilePath.join(folder, "tokenizer.json")
        return FilePath.isFile(path) ? .file(path) : .none
    }

    /// Names of all tensors.
    public var tensorNames: [String] { weights.tensorNames }

    /// Whether it has a tensor of this name.
    public func hasTensor(named name: String) -> Bool { weights.hasTensor(named: name) }

    /// A tensor; see ``SafetensorsFile/tensor(named:)``.
    public func tensor(named name: String) throws -> Tensor { try weights.tensor(named: name) }

    /// `chat_template.jinja`, else `chat_template` in `tokenizer_config.json`: a string, or a list of named templates
    /// of which `default` counts.
    public func chatTemplate() throws -> String? {
        let path = FilePath.join(folder, "chat_template.jinja")
        if FilePath.isFile(path) {
            let file = try MappedFile(path: path)
            guard let text = file.text(0..<file.byteCount) else {
                throw ModelFileError.malformed(file: path, place: "text", expected: "valid UTF-8", found: "other bytes")
            }
            return text
        }
        let configuration = FilePath.join(folder, "tokenizer_config.json")
        guard FilePath.isFile(configuration),
            let node = try MappedFile(path: configuration).json().optional("chat_template")
        else {
            return nil
        }
        if node.value.stringValue != nil { return try node.string() }
        let named = try node.elements().first { try $0.string("name") == "default" }
        return try named?.string("template")
    }

    /// The authors' GTA and GLA files may state the RoPE width as `head_dim`; the output projection says how wide a head
    /// is.
    private static func configuration(_ file: MappedFile, _ weights: SafetensorsSet) throws -> DecoderConfiguration {
        let node = try file.json()
        var headWidth: Int?
        if node.value["rope_dim"] != nil || node.value["qk_rope_dim"] != nil,
            let heads = node.value["num_attention_heads"]?.intValue, heads > 0
        {
            for prefix in ["model.", ""] {
                let output = TensorNames.llama(prefix: prefix).name(of: .layer(0, .output))
                guard let columns = weights.file(holding: output)?.info(output)?.extents.last else { continue }
                if columns % heads == 0, columns >= heads { headWidth = columns / heads }
            }
        }
        return try DecoderConfiguration(json: node, file: file.name, headWidth: headWidth)
    }

    /// A base model saved without its head lacks the prefix.
    private static func naming(_ configuration: DecoderConfiguration, _ weights: SafetensorsSet) -> TensorNames {
        let bare = TensorNames.huggingFace(configuration, bare: true)
        return weights.hasTensor(named: bare.name(of: .tokenEmbedding)) ? bare : .huggingFace(configuration)
    }
}
