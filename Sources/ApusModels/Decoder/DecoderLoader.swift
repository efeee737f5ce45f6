import ApusSynchronization
import ApusAttention
import ApusLayers
import ApusTensor

extension Decoder {
    /// Loads a decoder: checks that every weight exists, has its shape and is finite, and prepares it for the backend.
    /// - Parameters:
    ///   - latentBlockTokens: tokens whose keys and values latent attention up-projects at once; by default as many as a
    ///     bounded workspace holds.
    ///   - progress: called with the share of the layers done.
    /// - Throws: ``ModelFileError`` naming file and tensor.
    public convenience init(
        checkpoint: any Checkpoint, backend: any Backend, latentBlockTokens: Int? = nil,
        progress: (Double) -> Void = { _ in }
    ) throws {
        let configuration = checkpoint.configuration
        let loader = DecoderLoader(checkpoint: checkpoint, configuration: configuration, backend: backend)
        try loader.checkFinite()
        let table = try loader.tensor(.tokenEmbedding)
        var layers: [DecoderLayer] = []
        for index in 0..<configuration.layerCount {
            layers.append(try loader.layer(index))
            progress(Double(index + 1) / Double(configuration.layerCount + 1))
        }
        let headWeight: Tensor =
            switch configuration.head {
            case .score: try loader.tensor(.score)
            case .languageModel: configuration.tiesEmbeddings ? table : try loader.tensor(.head)
            }
        self.init(
            configuration: configuration, backend: backend, embedding: Embedding(table: table, backend: backend),
            layers: layers,
            finalNorm: try loader.norm(.finalNorm, .finalNormBias, factor: Float(configuration.logitScale)),
            head: try Linear(weight: headWeight, backend: backend),
            weightType: try loader.tensor(.layer(0, .output)).dtype, latentBlockTokens: latentBlockTokens)
    }
}

/// Turns a checkpoint's tensors into layers.
struct DecoderLoader {
    let checkpoint: any Checkpoint
    let configuration: DecoderConfiguration
    let backend: any Backend

    func tensor(_ role: TensorRole) throws -> Tensor { try checkpoint.tensor(role) }

    func tensor(_ layer: Int, _ part: LayerTensor) throws -> Tensor { try tensor(.layer(layer, part)) }

    /// Scans every weight for NaN and infinities, several at a time.
    func checkFinite() throws {
        let roles = configuration.tensorRoles
        let failure = Locked<(index: Int, error: any Error)?>(nil)
        backend.concurrently(roles.count) { index in
            do { _ = try checkpoint.finiteTensor(roles[index]) } catch {
                failure.withLock { if $0 == nil || $0!.index > index { $0 = (index, error) } }
            }
        }
        if let failure = failure.withLock({ $0 }) { throw failure.error }
    }

    /// - Parameter factor: multiplies what the norm gives.
    func norm(_ weight: TensorRole, _ bias: TensorRole, factor: Float = 1) throws -> Norm {
        func scaled(_ role: TensorRole) throws -> Tensor {
            let values = try tensor(role).float32()
            return factor == 1 ? values : Tensor(values.floats.map { $0 * factor }, shape: values.shape)
        }
        let scale = try scaled(weight)
        let epsilon = Float(configuration.normEpsilon)
        switch configuration.normKind {
        case .rms: return .rms(weight: scale, epsilon: epsilon, backend: backend)
        case .layer:
            return .layer(weight: scale, bias: try scaled(bias), epsilon: epsilon, backend: backend)
        }
    }

    func layer(_ index: Int) throws -> DecoderLayer {
        DecoderLayer(
            attention: try attention(index),
            attentionOutput: try residual(index, .output, .outputBias, hasBias: configuration.attentionOutputBias),
            feedForward: try configuration.hasExperts(layer: index)
                ? .experts(mixture(index)) : feedForward(index),
            attentionNorm: try norm(.layer(index, .attentionNorm), .layer(index, .attentionNormBias)),
            feedForwardNorm: try norm(.layer(index, .feedForwardNorm), .layer(index, .feedForwardNormBias)),
            isParallel: configuration.parallelResidual)
    }

    func linear(_ layer: Int, _ weight: LayerTensor, _ bias: LayerTensor? = nil, hasBias: Bool = false) throws -> Linear
    {
        let term = try term(layer, weight, bias, hasBias: hasBias)
        return Linear(prepared: term.weight, bias: term.bias, backend: backend)
    }

    func term(_ layer: Int, _ weight: LayerTensor, _ bias: LayerTensor? = nil, hasBias: Bool = false) throws
        -> LinearTerm
    {
        LinearTerm(
            try backend.prepare(try tensor(layer, weight)),
            bias: hasBias ? try bias.map { try tensor(layer, $0).float32() } : nil)
    }

    /// A projection onto the residual stream, with the model's factor.
    func residual(_ layer: Int, _ weight: LayerTensor, _ bias: LayerTensor, hasBias: Bool) throws -> ResidualOutput {
        let scale = Float(configuration.residualScale)
        var term = try term(layer, weight, bias, hasBias: hasBias)
        if scale != 1, let bias = term.bias {
            term = LinearTerm(term.weight, bias: Tensor(bias.floats.map { $0 * scale }, shape: bias.shape))
        }
        return ResidualOutput(
            linear: Linear(prepared: term.weight, bias: term.bias, backend: backend), scale: scale, backend: backend)
    }
}

extension DecoderConfiguration.Activation {
    /// The backend's operation.
    var operation: ActivationFunction {
        switch self {
        case .silu: .silu
        case .gelu: .gelu
        case .geluTanh: .geluTanh
        }
    }
}
