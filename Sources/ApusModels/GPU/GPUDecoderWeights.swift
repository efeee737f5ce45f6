import ApusTensor

/// A model's weights on a GPU: matrices as ``CUDAWeightFormat`` has them, packed ones in the file's codes and scales and others
/// in bf16; norms and biases in float32.
final class GPUDecoderWeights: Sendable {
    struct Layer: Sendable {
        /// `[query | key | value rows][hidden]`; where the key is kept once `[queries or query latents | states | key][hidden]`:
        /// one after the other, several where files have them in several formats.
        let projection: [CUDAWeight]
        let projectionBias: CUDABuffer?
        /// `[hidden][heads]`.
        let output: CUDAWeight
        let outputBias: CUDABuffer?
        /// The dense one, or the shared experts.
        let feedForward: FeedForward?
        let experts: Experts?
        let attentionNorm: CUDABuffer
        let feedForwardNorm: CUDABuffer
        let queryNorm: CUDABuffer?
        let keyNorm: CUDABuffer?
        var latent: Latent?

        /// All matrices that every row is multiplied with.
        var matrices: [CUDAWeight] {
            projection + [output] + (feedForward.map { [$0.gateUp, $0.down] } ?? [])
                + (latent?.queryUp.map { [$0] } ?? [])
        }
    }

    struct FeedForward: Sendable {
        /// 8 rows of the gate, 8 of up, ...
        let gateUp: CUDAWeight
        let gateUpBias: CUDABuffer?
        let down: CUDAWeight
        let downBias: CUDABuffer?
    }

    /// Routed experts.
    struct Experts: Sendable {
        /// `[expert][hidden]` float32, times the weight of the norm before it.
        let router: CUDABuffer
        /// `[expert]`.
        let correction: CUDABuffer?
        /// Of each expert, one after the other: as those of a feed-forward.
        let gateUp: CUDAWeight, down: CUDAWeight
    }

    let embedding: CUDAWeight
    /// The embedding where it is tied.
    let head: CUDAWeight
    /// With the model's factor on logits.
    let finalNorm: CUDABuffer
    let layers: [Layer]

    private init(embedding: CUDAWeight, head: CUDAWeight, finalNorm: CUDABuffer, layers: [Layer]) {
        self.embedding = embedding
        self.head = head
        self.finalNorm = finalNorm
        self.layers = layers
    }

    /// Bytes of the largest matrix whose elements prompts have expanded to bf16; 0 where none is quantised.
    var expandedBytes: Int {
        layers.flatMap(\.matrices).filter(\.format.isQuantised).map { $0.rows * $0.width * 2 }.max() ?? 0
    }

    /// Bytes of the matrices that a step of so many sequences reads; of experts those that are visited, where each is as likely
    /// as the others.
    func stepBytes(_ configuration: ExpertConfiguration?, sequences: Int) -> Int {
        var visited = 0.0
        if let configuration {
            let (count, perToken) = (Double(configuration.count), Double(configuration.expertsPerToken))
            var missed = 1.0
            for _ in 0..<sequences { missed *= 1 - perToken / count }
            visited = count * (1 - missed)
        }
        return layers.reduce(head.byteCount) { bytes, layer in
            layer.matrices.reduce(bytes) { $0 + $1.byteCount }
                + (layer.latent.map { $0.keyUp.byteCount + $0.valueUp.byteCount } ?? 0)
                + (layer.experts.map {
                    $0.router.byteCount + Int(visited * Double($0.gateUp.byteCount + $0.down.byteCount))
                } ?? 0)
        }
    }
}

// MARK: From files

extension GPUDecoderWeights {
    /// The weights of a checkpoint, or a rank's part of them; each is checked for its shape and for NaN.
    convenience init(
        _ checkpoint: any Checkpoint, part: ModelSharding?, stream: CUDAStream, progress: (Double) -> Void
    ) throws {
        let loader = DecoderLoader(
            checkpoint: checkpoint, sharding: part, backend: CPUBackend.shared, usesWeightsInPlace: true)
        let model = loader.configuration
        try loader.checkFinite()
        func floats(_ role: TensorRole, factor: Double = 1) throws -> CUDABuffer {
            let values = try loader.tensor(role).float32().floats
            return try stream.upload(factor == 1 ? values : values.map { $0 * Float(factor) })
        }
        let files = GPUWeightFiles(stream: stream)
        // Few rows of it are read, so that every rank has all of it.
        let embedding = try files.matrix([checkpoint.tensor(.tokenEmbedding)])
        var layers: [Layer] = []
        for index in 0..<model.layerCount {
            func tensor(_ part: LayerTensor) throws -> Tensor { try loader.tensor(index, part) }
            func vector(_ part: LayerTensor) throws -> CUDABuffer { try floats(.layer(index, part)) }
            let (projections, bias) = try loader.firstProjections(index)
            layers.append(
                Layer(
                    projection: try files.matrices(projections),
                    projectionBias: try bias.map { try stream.upload($0) },
                    output: try files.matrix([tensor(.output)]),
                    outputBias: model.attentionOutputBias ? try vector(.outputBias) : nil,
                    feedForward: try files.feedForward(loader, layer: index),
                    experts: try files.experts(loader, layer: index),
                    attentionNorm: try vector(.attentionNorm), feedForwardNorm: try vector(.feedForwardNorm),
                    queryNorm: model.queryKeyNorm ? try vector(.queryNorm) : nil,
                    keyNorm: model.queryKeyNorm ? try vector(.keyNorm) : nil,
                    latent: try Latent(loader, layer: index, files: files)))
            progress(Double(index + 1) / Double(model.layerCount))
        }
        self.init(
            embedding: embedding,
            head: model.tiesEmbeddings
                ? part == nil ? embedding : try files.matrix([loader.tensor(.tokenEmbedding)])
                : try files.matrix([loader.tensor(.head)]),
            finalNorm: try floats(.finalNorm, factor: model.logitScale), layers: layers)
    }

    /// A tensor's elements as bf16, rounded to nearest even where they are wider.
    static func bf16(_ tensor: Tensor) throws -> [UInt16] {
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
    /// - Parameter format: of matrices whose rows are whole blocks of it; others are bf16.
    convenience init(
        random model: DecoderConfiguration, part: ModelSharding?, seed: UInt64, format: CUDAWeightFormat = .bf16,
        stream: CUDAStream
    ) throws {
        let fill = try stream.device.modules.kernel("fill_uniform", in: KernelSources.source("decoder_step.cu"))
        let quantised = CUDAQuantisedKernels(stream.device)
        var drawn = seed
        try self.init(model, part: part, format: format) { rows, columns, format, count in
            let bytes = format.byteCount(rows: rows, width: columns) * count
            let buffer = try CUDABuffer(byteCount: bytes, stream: stream)
            let weight = CUDAWeight(buffer, format, rows: rows, width: columns)
            drawn = drawn &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            if format.isQuantised {
                try quantised.fill(weight, seed: drawn, on: stream)
            } else {
                try fill.launch(
                    grid: 1024, block: 256, on: stream, .buffer(buffer), .value(Int64(bytes / 2)), .value(drawn),
                    .value(Float(0.035)))
            }
            return weight
        } vector: { count, value in
            try stream.upload([Float](repeating: value, count: count))
        }
    }

    /// Memory for the weights of a model, in bf16.
    convenience init(uninitialized model: DecoderConfiguration, stream: CUDAStream) throws {
        try self.init(model, part: nil, format: .bf16) { rows, columns, format, count in
            let buffer = try CUDABuffer(byteCount: format.byteCount(rows: rows, width: columns) * count, stream: stream)
            return CUDAWeight(buffer, format, rows: rows, width: columns)
        } vector: { count, _ in
            try CUDABuffer(byteCount: count * 4, stream: stream)
        }
    }

    /// Weights in buffers that are made for them.
    /// - Parameters:
    ///   - format: asked for where rows are whole blocks of it.
    ///   - make: makes a matrix.
    ///   - vector: makes float32 vectors of a length; the value is what changes nothing.
    private convenience init(
        _ model: DecoderConfiguration, part: ModelSharding?, format: CUDAWeightFormat,
        make: (_ rows: Int, _ columns: Int, _ format: CUDAWeightFormat, _ count: Int) throws -> CUDAWeight,
        vector: (_ count: Int, _ value: Float) throws -> CUDABuffer
    ) throws {
        let shape = try GPUDecoderShape(model, part: part)
        func matrix(_ rows: Int, _ columns: Int, count: Int = 1) throws -> CUDAWeight {
            try make(rows, columns, columns % format.dtype.blockSize == 0 ? format : .bf16, count)
        }
        func bias(_ isThere: Bool, _ count: Int) throws -> CUDABuffer? { isThere ? try vector(count, 0) : nil }
        func feedForward(_ width: Int) throws -> FeedForward? {
            guard width > 0 else { return nil }
            return FeedForward(
                gateUp: try matrix(2 * width, shape.width), gateUpBias: try bias(model.feedForwardBias, 2 * width),
                down: try matrix(shape.width, width), downBias: try bias(model.feedForwardBias, shape.width))
        }
        func experts(_ experts: ExpertConfiguration) throws -> Experts {
            // As float32 a pair of random bf16 is about the upper one.
            Experts(
                router: try make(experts.count, 2 * shape.width, .bf16, 1).buffer,
                correction: experts.hasCorrection ? try vector(experts.count, 0) : nil,
                gateUp: try matrix(2 * experts.width, shape.width, count: experts.count),
                down: try matrix(shape.width, experts.width, count: experts.count))
        }
        let embedding = try matrix(shape.vocabulary, shape.width)
        let layers = try (0..<shape.layers).map { index in
            Layer(
                projection: [try matrix(shape.projected, shape.width)],
                projectionBias: try bias(model.hasFirstBias, shape.projected),
                output: try matrix(shape.width, shape.attended),
                outputBias: try bias(model.attentionOutputBias, shape.width),
                feedForward: try feedForward(
                    model.hasExperts(layer: index) ? model.experts?.sharedWidth ?? 0 : shape.inner),
                experts: model.hasExperts(layer: index) ? try model.experts.map(experts) : nil,
                attentionNorm: try vector(shape.width, 1), feedForwardNorm: try vector(shape.width, 1),
                queryNorm: model.queryKeyNorm ? try vector(shape.headWidth, 1) : nil,
                keyNorm: model.queryKeyNorm ? try vector(shape.headWidth, 1) : nil,
                latent: try shape.latent.map {
                    try Latent(
                        $0, shape, queryUp: { try matrix($0, $1) },
                        perHead: { try make($0, $1, .bf16, 1).buffer }, vector: vector)
                })
        }
        self.init(
            embedding: embedding,
            head: model.tiesEmbeddings && part == nil
                ? embedding : try matrix(shape.headTokens.count, shape.width),
            finalNorm: try vector(shape.width, Float(model.logitScale)), layers: layers)
    }
}
