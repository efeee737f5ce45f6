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
    ///
    /// Where there are experts, routers read what no layer writes: nearly all of their weight is on the first columns of the
    /// residual stream, which keep the embedding. So two ways of computing, rounded differently, choose the same experts.
    /// - Parameter type: of a matrix, where its rows are whole blocks of it; bf16 or one that GGUF packs.
    init(
        random configuration: DecoderConfiguration, seed: UInt64, name: String,
        type: (TensorRole) -> DType = { _ in .bf16 }
    ) throws {
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
            let name = names.name(of: role)
            let type = isMatrix && shape[-1] % type(role).blockSize == 0 ? type(role) : .bf16
            guard type != .q6_K else {
                tensors[name] = Self.randomQ6K(shape, deviation: deviation, seed: seed)
                continue
            }
            var normal = NormalNumbers(seed: seed, stream: name)
            var numbers = (0..<shape.count).map { _ in mean + deviation * normal.next() }
            if configuration.experts != nil { Self.keepApart(role, width: configuration.hiddenSize, &numbers) }
            let values = Tensor(numbers, shape: shape)
            tensors[name] = try values.encoded(as: type, backend: CPUBackend.shared)
        }
        self.tensors = tensors
    }

    /// Columns of the residual stream that only the embedding writes and routers read.
    private static let routed = 64

    private static func keepApart(_ role: TensorRole, width: Int, _ numbers: inout [Float]) {
        switch role {
        case .tokenEmbedding:
            for index in numbers.indices where index % width < routed { numbers[index] *= 4 }
        case .layer(_, .router):
            let scale = Float(width).squareRoot()
            for index in numbers.indices { numbers[index] *= index % width < routed ? scale : 0.02 }
        case .layer(_, .output), .layer(_, .down), .layer(_, .expertDown), .layer(_, .sharedDown):
            for index in 0..<numbers.count / width * routed { numbers[index] = 0 }
        default: break
        }
    }

    /// Random codes and scales, for which there is no encoder.
    private static func randomQ6K(_ shape: Shape, deviation: Float, seed: UInt64) -> Tensor {
        let tensor = Tensor(uninitialized: shape, dtype: .q6_K)
        // Codes deviate by 18.5, scales of 16 elements by 74.
        let scale = Tensor([deviation / (18.5 * 74)], shape: [1])
        guard let half = try? scale.encoded(as: .f16, backend: CPUBackend.shared) else {
            preconditionFailure("float16 has an encoder")
        }
        let bits = half.withElements(of: UInt16.self) { $0[0] }
        var random = SplitMix(state: seed &+ UInt64(shape.count))
        for start in stride(from: 0, to: tensor.byteCount, by: DType.q6_K.bytesPerBlock) {
            let block = tensor.rawPointer + start
            for byte in 0..<208 {
                block.storeBytes(of: UInt8(truncatingIfNeeded: random.next()), toByteOffset: byte, as: UInt8.self)
            }
            block.storeBytes(of: UInt8(bits & 255), toByteOffset: 208, as: UInt8.self)
            block.storeBytes(of: UInt8(bits >> 8), toByteOffset: 209, as: UInt8.self)
        }
        return tensor
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
