import ApusTensor

/// A model whose weights stand in memory, in Hugging Face's names: for decoding with what is being trained.
public struct MemoryCheckpoint: Checkpoint {
    /// For messages.
    public let name: String
    /// What the model is.
    public let configuration: DecoderConfiguration
    /// Hugging Face's names of this family.
    public let tensorNaming: TensorNames
    /// Nothing is recommended.
    public var generationDefaults: GenerationDefaults { GenerationDefaults() }
    /// None.
    public var tokenizer: TokenizerSource { .none }
    private let tensors: [String: Tensor]

    /// The weights of a model as they are: later training steps change them too, but not decoders made before. Those on a GPU
    /// are copied.
    /// - Throws: what has failed on the GPU.
    public init(_ model: TrainableDecoder, name: String = "the trained model") throws {
        self.name = name
        configuration = model.configuration
        tensorNaming = model.names
        let parameters = model.parameters()
        let values = try model.operations.backend.toHost(parameters.map(\.parameter.value))
        tensors = Dictionary(uniqueKeysWithValues: zip(parameters.map(\.name), values))
    }

    /// A model with random weights that bf16 represents, norms and biases too: to hold one way of computing against another.
    init(random configuration: DecoderConfiguration, seed: UInt64, name: String) throws {
        self.name = name
        self.configuration = configuration
        let names = TensorNames.huggingFace(configuration)
        tensorNaming = names
        var tensors: [String: Tensor] = [:]
        for role in configuration.tensorRoles {
            let shape = configuration.shape(of: role)
            let isMatrix = shape.rank > 1
            let deviation = isMatrix ? 1 / Float(shape[-1]).squareRoot() : 0.3
            let mean: Float = role.isNormWeight ? 1 : 0
            var normal = NormalNumbers(seed: seed, stream: names.name(of: role))
            let values = Tensor((0..<shape.count).map { _ in mean + deviation * normal.next() }, shape: shape)
            tensors[names.name(of: role)] = try values.encoded(as: .bf16, backend: CPUBackend.shared)
        }
        self.tensors = tensors
    }

    /// None.
    public func chatTemplate() -> String? { nil }

    /// Names of all weights.
    public var tensorNames: [String] { tensors.keys.sorted() }

    /// Whether there is such a weight.
    public func hasTensor(named name: String) -> Bool { tensors[name] != nil }

    /// A weight, float32.
    public func tensor(named name: String) throws -> Tensor {
        guard let tensor = tensors[name] else { throw ModelFileError.missingTensor(file: self.name, tensor: name) }
        return tensor
    }
}
