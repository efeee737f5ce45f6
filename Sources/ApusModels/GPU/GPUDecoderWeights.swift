import ApusTensor

/// A model's weights on a GPU: matrices in bf16 whatever the file has, norms and biases in float32.
final class GPUDecoderWeights: Sendable {
    struct Layer: Sendable {
        /// `[query | key | value rows][hidden]`.
        let projection: CUDABuffer
        let projectionBias: CUDABuffer?
        /// `[hidden][heads]`.
        let output: CUDABuffer
        let outputBias: CUDABuffer?
        /// 8 rows of the gate, 8 of up, ...
        let gateUp: CUDABuffer
        let gateUpBias: CUDABuffer?
        let down: CUDABuffer
        let downBias: CUDABuffer?
        let attentionNorm: CUDABuffer
        let feedForwardNorm: CUDABuffer
        let queryNorm: CUDABuffer?
        let keyNorm: CUDABuffer?
    }

    let embedding: CUDABuffer
    /// The embedding where it is tied.
    let head: CUDABuffer
    /// With the model's factor on logits.
    let finalNorm: CUDABuffer
    let layers: [Layer]

    private init(embedding: CUDABuffer, head: CUDABuffer, finalNorm: CUDABuffer, layers: [Layer]) {
        self.embedding = embedding
        self.head = head
        self.finalNorm = finalNorm
        self.layers = layers
    }
}

// MARK: From files

extension GPUDecoderWeights {
    /// The weights of a checkpoint; each is checked for its shape and for NaN.
    convenience init(
        _ checkpoint: any Checkpoint, stream: CUDAStream, progress: (Double) -> Void
    ) throws {
        let model = checkpoint.configuration
        let loader = DecoderLoader(
            checkpoint: checkpoint, sharding: nil, backend: CPUBackend.shared, usesWeightsInPlace: true)
        try loader.checkFinite()
        func floats(_ role: TensorRole, factor: Double = 1) throws -> CUDABuffer {
            let values = try loader.tensor(role).float32().floats
            return try stream.upload(factor == 1 ? values : values.map { $0 * Float(factor) })
        }
        func matrix(_ parts: [Tensor]) throws -> CUDABuffer { try stream.upload(parts.flatMap { try Self.bf16($0) }) }
        let embedding = try matrix([loader.tensor(.tokenEmbedding)])
        var layers: [Layer] = []
        for index in 0..<model.layerCount {
            func tensor(_ part: LayerTensor) throws -> Tensor { try loader.tensor(index, part) }
            func vector(_ part: LayerTensor) throws -> CUDABuffer { try floats(.layer(index, part)) }
            let (projections, biases) = try loader.projectionTensors(index)
            let gateUp = try Self.byTurns(Self.bf16(tensor(.gate)), Self.bf16(tensor(.up)), rows: 8 * model.hiddenSize)
            layers.append(
                Layer(
                    projection: try matrix(projections),
                    projectionBias: model.attentionBias
                        ? try stream.upload(biases.flatMap { $0.map(\.floats) ?? [] }) : nil,
                    output: try matrix([tensor(.output)]),
                    outputBias: model.attentionOutputBias ? try vector(.outputBias) : nil,
                    gateUp: try stream.upload(gateUp),
                    gateUpBias: model.feedForwardBias
                        ? try stream.upload(
                            Self.byTurns(
                                tensor(.gateBias).float32().floats, tensor(.upBias).float32().floats, rows: 8)) : nil,
                    down: try matrix([tensor(.down)]),
                    downBias: model.feedForwardBias ? try vector(.downBias) : nil,
                    attentionNorm: try vector(.attentionNorm), feedForwardNorm: try vector(.feedForwardNorm),
                    queryNorm: model.queryKeyNorm ? try vector(.queryNorm) : nil,
                    keyNorm: model.queryKeyNorm ? try vector(.keyNorm) : nil))
            progress(Double(index + 1) / Double(model.layerCount))
        }
        self.init(
            embedding: embedding, head: model.tiesEmbeddings ? embedding : try matrix([loader.tensor(.head)]),
            finalNorm: try floats(.finalNorm, factor: model.logitScale), layers: layers)
    }

    /// A tensor's elements as bf16, rounded to nearest even where they are wider.
    private static func bf16(_ tensor: Tensor) throws -> [UInt16] {
        let narrow =
            tensor.dtype == .bf16 && tensor.isContiguous
            ? tensor : try tensor.float32().encoded(as: .bf16, backend: CPUBackend.shared)
        return narrow.withElements(of: UInt16.self) { Array($0) }
    }

    /// `count` elements of one, as many of the other, and so on.
    static func byTurns<Element>(_ a: [Element], _ b: [Element], rows count: Int) -> [Element] {
        var result: [Element] = []
        result.reserveCapacity(a.count + b.count)
        for start in stride(from: 0, to: a.count, by: count) {
            result += a[start..<start + count]
            result += b[start..<start + count]
        }
        return result
    }
}

// MARK: Without files

extension GPUDecoderWeights {
    /// Random weights: matrices uniform with a deviation of about 0.02, norms 1, biases 0.
    convenience init(random model: DecoderConfiguration, seed: UInt64, stream: CUDAStream) throws {
        let shape = try GPUDecoderShape(model)
        let fill = try stream.device.modules.kernel("fill_uniform", in: KernelSources.source("decoder_step.cu"))
        var drawn = seed
        func matrix(_ rows: Int, _ columns: Int) throws -> CUDABuffer {
            let buffer = try CUDABuffer(byteCount: rows * columns * 2, stream: stream)
            drawn = drawn &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            try fill.launch(
                grid: 1024, block: 256, on: stream, .buffer(buffer), .value(Int64(rows * columns)), .value(drawn),
                .value(Float(0.035)))
            return buffer
        }
        func vector(_ count: Int, _ value: Float = 1) throws -> CUDABuffer {
            try stream.upload([Float](repeating: value, count: count))
        }
        func bias(_ isThere: Bool, _ count: Int) throws -> CUDABuffer? { isThere ? try vector(count, 0) : nil }
        let embedding = try matrix(shape.vocabulary, shape.width)
        let layers = try (0..<shape.layers).map { _ in
            Layer(
                projection: try matrix(shape.projected, shape.width),
                projectionBias: try bias(model.attentionBias, shape.projected),
                output: try matrix(shape.width, shape.attended),
                outputBias: try bias(model.attentionOutputBias, shape.width),
                gateUp: try matrix(2 * shape.inner, shape.width),
                gateUpBias: try bias(model.feedForwardBias, 2 * shape.inner),
                down: try matrix(shape.width, shape.inner), downBias: try bias(model.feedForwardBias, shape.width),
                attentionNorm: try vector(shape.width), feedForwardNorm: try vector(shape.width),
                queryNorm: model.queryKeyNorm ? try vector(shape.headWidth) : nil,
                keyNorm: model.queryKeyNorm ? try vector(shape.headWidth) : nil)
        }
        self.init(
            embedding: embedding,
            head: model.tiesEmbeddings ? embedding : try matrix(shape.vocabulary, shape.width),
            finalNorm: try vector(shape.width, Float(model.logitScale)), layers: layers)
    }
}
