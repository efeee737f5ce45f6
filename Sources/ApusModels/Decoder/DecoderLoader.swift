import ApusAttention
import ApusLayers
import ApusTensor
import Synchronization

extension Decoder {
    /// Loads a decoder: checks that every weight exists, has its shape and is finite, and prepares it for the backend.
    /// - Parameter progress: called with the share of the layers done.
    /// - Throws: ``ModelFileError`` naming file and tensor.
    public convenience init(
        checkpoint: any Checkpoint, backend: any Backend, progress: (Double) -> Void = { _ in }
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
            layers: layers, finalNorm: try loader.norm(.finalNorm, .finalNormBias),
            head: try Linear(weight: headWeight, backend: backend),
            weightType: try loader.tensor(.layer(0, .down)).dtype)
    }
}

/// Turns a checkpoint's tensors into layers.
struct DecoderLoader {
    let checkpoint: any Checkpoint
    let configuration: DecoderConfiguration
    let backend: any Backend

    func tensor(_ role: TensorRole) throws -> Tensor { try checkpoint.tensor(role) }

    private func tensor(_ layer: Int, _ part: LayerTensor) throws -> Tensor { try tensor(.layer(layer, part)) }

    /// Scans every weight for NaN and infinities, several at a time.
    func checkFinite() throws {
        let roles = configuration.tensorRoles
        let failure = Mutex<(index: Int, error: any Error)?>(nil)
        backend.concurrently(roles.count) { index in
            do { _ = try checkpoint.finiteTensor(roles[index]) } catch {
                failure.withLock { if $0 == nil || $0!.index > index { $0 = (index, error) } }
            }
        }
        if let failure = failure.withLock({ $0 }) { throw failure.error }
    }

    func norm(_ weight: TensorRole, _ bias: TensorRole) throws -> Norm {
        let scale = try tensor(weight).float32()
        let epsilon = Float(configuration.normEpsilon)
        switch configuration.normKind {
        case .rms: return .rms(weight: scale, epsilon: epsilon, backend: backend)
        case .layer:
            return .layer(weight: scale, bias: try tensor(bias).float32(), epsilon: epsilon, backend: backend)
        }
    }

    func layer(_ index: Int) throws -> DecoderLayer {
        DecoderLayer(
            attention: try attention(index), feedForward: try feedForward(index),
            attentionNorm: try norm(.layer(index, .attentionNorm), .layer(index, .attentionNormBias)),
            feedForwardNorm: try norm(.layer(index, .feedForwardNorm), .layer(index, .feedForwardNormBias)),
            isParallel: configuration.parallelResidual)
    }

    private func linear(_ layer: Int, _ weight: LayerTensor, _ bias: LayerTensor, hasBias: Bool) throws -> Linear {
        try Linear(
            weight: try tensor(layer, weight), bias: hasBias ? try tensor(layer, bias).float32() : nil, backend: backend
        )
    }

    private func attention(_ index: Int) throws -> SelfAttention {
        let terms = try projections(index)
        let epsilon = Float(configuration.normEpsilon)
        func headNorm(_ part: LayerTensor) throws -> Norm? {
            guard configuration.queryKeyNorm else { return nil }
            return .rms(weight: try tensor(index, part).float32(), epsilon: epsilon, backend: backend)
        }
        return SelfAttention(
            index: index, query: terms[0], key: terms[1], value: terms[2], queryNorm: try headNorm(.queryNorm),
            keyNorm: try headNorm(.keyNorm),
            output: try linear(index, .output, .outputBias, hasBias: configuration.attentionOutputBias),
            geometry: try configuration.geometry(layer: index),
            parameters: AttentionParameters(
                scale: 1 / Float(configuration.headWidth).squareRoot(), window: configuration.windows[index]),
            rotary: configuration.rotary(layer: index),
            usesSlidingRotary: configuration.windows[index] != nil && configuration.slidingRotary != nil,
            backend: backend)
    }

    /// Query, key and value projections, cut out of the fused weight where the file has one.
    private func projections(_ index: Int) throws -> [LinearTerm] {
        let weights: [Tensor]
        var biases: [Tensor?] = [nil, nil, nil]
        if let fused = configuration.fusedQKV {
            weights = split(try tensor(index, .fusedQKV), fused)
            if configuration.attentionBias {
                biases = split(try tensor(index, .fusedQKVBias).float32(), fused)
            }
        } else {
            weights = try [.query, .key, .value].map { try tensor(index, $0) }
            if configuration.attentionBias {
                biases = try [.queryBias, .keyBias, .valueBias].map { try tensor(index, $0).float32() }
            }
        }
        return try zip(weights, biases).map { LinearTerm(try backend.prepare($0), bias: $1) }
    }

    private func split(_ fused: Tensor, _ layout: DecoderConfiguration.FusedQKV) -> [Tensor] {
        let width = configuration.headWidth
        switch layout {
        case .stacked:
            let queries = configuration.queryHeads * width
            let keys = configuration.kvHeads * width
            return [
                fused.rows(0..<queries), fused.rows(queries..<(queries + keys)),
                fused.rows((queries + keys)..<(queries + 2 * keys)),
            ]
        case .perHead:
            return (0..<3).map { part in
                fused.gatheringRows(
                    (0..<configuration.queryHeads).flatMap { head in
                        let start = (head * 3 + part) * width
                        return start..<(start + width)
                    })
            }
        }
    }

    private func feedForward(_ index: Int) throws -> FeedForward {
        let hasBias = configuration.feedForwardBias
        let down = try linear(index, .down, .downBias, hasBias: hasBias)
        guard configuration.isGated else {
            let up = try linear(index, .up, .upBias, hasBias: hasBias)
            return .plain(up: up, down: down, activation: configuration.activation.operation, backend: backend)
        }
        if configuration.activation == .silu && !hasBias {
            return .swiglu(
                gate: try backend.prepare(try tensor(index, .gate)), up: try backend.prepare(try tensor(index, .up)),
                down: down, backend: backend)
        }
        return .gated(
            gate: try linear(index, .gate, .gateBias, hasBias: hasBias),
            up: try linear(index, .up, .upBias, hasBias: hasBias), down: down,
            activation: configuration.activation.operation, backend: backend)
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
