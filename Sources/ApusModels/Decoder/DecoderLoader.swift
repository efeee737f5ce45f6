import ApusSynchronization
import ApusAttention
import ApusLayers
import ApusTensor

extension Decoder {
    /// Loads a decoder: checks that every weight exists, has its shape and is finite, and prepares it for the backend.
    /// - Parameters:
    ///   - latentBlockTokens: tokens whose keys and values latent attention up-projects at once; by default as many as a
    ///     bounded workspace holds.
    ///   - usesWeightsInPlace: whether float weights are read where they lie instead of from a copy, as for decoding with
    ///     weights that are being trained. Weights of latent attention that are cut into heads are copied all the same.
    ///   - ranks: the ranks that the model is cut over; nil where this process takes all of it.
    ///   - progress: called with the share of the layers done.
    /// - Throws: ``ModelFileError`` naming file and tensor.
    public convenience init(
        checkpoint: any Checkpoint, backend: any Backend, latentBlockTokens: Int? = nil,
        usesWeightsInPlace: Bool = false, ranks: TensorParallel? = nil, progress: (Double) -> Void = { _ in }
    ) throws {
        let configuration = checkpoint.configuration
        let loader = DecoderLoader(
            checkpoint: checkpoint, sharding: ranks?.sharding, backend: backend,
            usesWeightsInPlace: usesWeightsInPlace)
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
            configuration: configuration, tensorParallel: ranks, backend: backend,
            embedding: Embedding(table: table, backend: backend),
            layers: layers,
            finalNorm: try loader.norm(.finalNorm, .finalNormBias, factor: Float(configuration.logitScale)),
            head: Linear(prepared: try loader.prepare(headWeight), backend: backend),
            weightType: try checkpoint.tensor(.layer(0, .output)).dtype, latentBlockTokens: latentBlockTokens)
    }
}

/// Turns a checkpoint's tensors into layers.
struct DecoderLoader {
    let checkpoint: any Checkpoint
    /// What this rank keeps, where the model is cut.
    let sharding: ModelSharding?
    let backend: any Backend
    let usesWeightsInPlace: Bool

    func prepare(_ weight: Tensor) throws -> any PreparedWeight {
        try usesWeightsInPlace ? backend.prepareInPlace(weight) : backend.prepare(weight)
    }

    /// The model to load: the whole, or this rank's part.
    var configuration: DecoderConfiguration { sharding?.local ?? checkpoint.configuration }

    func tensor(_ role: TensorRole) throws -> Tensor {
        guard let share = sharding?.share(of: role) else { return try checkpoint.tensor(role) }
        return try sharding!.part(try checkpoint.tensor(share.role), share.cut)
    }

    func tensor(_ layer: Int, _ part: LayerTensor) throws -> Tensor { try tensor(.layer(layer, part)) }

    /// Scans every weight for NaN and infinities, several at a time.
    func checkFinite() throws {
        let roles = configuration.tensorRoles
        let failure = Locked<(index: Int, error: any Error)?>(nil)
        backend.concurrently(roles.count) { index in
            do { try checkFinite(roles[index]) } catch {
                failure.withLock { if $0 == nil || $0!.index > index { $0 = (index, error) } }
            }
        }
        if let failure = failure.withLock({ $0 }) { throw failure.error }
    }

    /// A rank looks at the rows that it keeps; of weights that are cut by columns at all, since they lie between others.
    private func checkFinite(_ role: TensorRole) throws {
        guard let share = sharding?.share(of: role), case .rows(let ranges) = share.cut, ranges.count == 1 else {
            _ = try checkpoint.finiteTensor(sharding?.share(of: role).role ?? role)
            return
        }
        let whole = try checkpoint.tensor(share.role)
        if let element = whole.rows(ranges[0]).firstNotFinite() {
            let before = whole.shape[0] == 0 ? 0 : ranges[0].lowerBound * (whole.count / whole.shape[0])
            throw ModelFileError.notFinite(
                file: checkpoint.name, tensor: checkpoint.name(of: share.role), element: before + element)
        }
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
            try prepare(try tensor(layer, weight)),
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
