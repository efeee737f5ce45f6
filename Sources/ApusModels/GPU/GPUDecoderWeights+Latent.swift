import ApusAttention
import ApusTensor

extension GPUDecoderWeights {
    /// What latent attention has beside the first projection and the output projection.
    struct Latent: Sendable {
        /// `[latent][width]` of the query latents, and their projections to queries, `[latent][output][width]`.
        let queryNorm: CUDABuffer?
        let queryUp: CUDAWeight?
        let queryUpBias: CUDABuffer?
        /// `[latent head][latent width]`.
        let norm: CUDABuffer
        /// Of each query head: up-projections of keys, transposed, `[latent width][content]`, and of values,
        /// `[value][latent width]`; in bf16.
        let keyUp: CUDABuffer
        let valueUp: CUDABuffer
        let valueBias: CUDABuffer?
    }
}

extension GPUDecoderWeights.Latent {
    /// A layer's weights of a checkpoint; nil without latents.
    init?(_ loader: DecoderLoader, layer: Int, files: GPUWeightFiles) throws {
        guard case .latent(let widths) = loader.configuration.attention else { return nil }
        let stream = files.stream
        func tensor(_ part: LayerTensor) throws -> Tensor { try loader.tensor(layer, part) }
        func floats(_ part: LayerTensor) throws -> [Float] { try tensor(part).float32().floats }
        func vectors(_ count: Int, _ part: (Int) -> LayerTensor) throws -> CUDABuffer {
            try stream.upload((0..<count).flatMap { try floats(part($0)) })
        }
        let cut = LatentUpProjection(widths, heads: loader.configuration.queryHeads / widths.latentHeads)
        var (keys, values, biases): ([UInt16], [UInt16], [Float]) = ([], [], [])
        for latent in 0..<widths.latentHeads {
            let up = try GPUDecoderWeights.bf16(tensor(.latentUp(latent)))
            keys += cut.keys(up)
            values += cut.values(up)
            if widths.hasUpBias { biases += cut.valueBiases(try floats(.latentUpBias(latent))) }
        }
        let queries = widths.queryLatents
        let ups = try (0..<queries).map { try tensor(.queryUp($0)) }
        self.init(
            queryNorm: queries > 0 ? try vectors(queries) { .queryLatentNorm($0) } : nil,
            // Several are a product for each head.
            queryUp: queries > 0 ? try queries == 1 ? files.matrix(ups) : files.bf16(ups) : nil,
            queryUpBias: queries > 0 && widths.hasUpBias ? try vectors(queries) { .queryUpBias($0) } : nil,
            norm: try vectors(widths.latentHeads) { .latentNorm($0) }, keyUp: try stream.upload(keys),
            valueUp: try stream.upload(values), valueBias: widths.hasUpBias ? try stream.upload(biases) : nil)
    }

    /// Weights in buffers that are made for them.
    init(
        _ latent: LatentConfiguration, _ shape: GPUDecoderShape,
        queryUp: (_ rows: Int, _ columns: Int) throws -> CUDAWeight,
        perHead: (_ rows: Int, _ columns: Int) throws -> CUDABuffer,
        vector: (_ count: Int, _ value: Float) throws -> CUDABuffer
    ) throws {
        let rank = latent.queryRank
        self.init(
            queryNorm: try rank.map { try vector($0, 1) },
            queryUp: try rank.map { rank in
                let (rows, columns) = (shape.latentQueries, rank / latent.queryLatents)
                guard latent.queryLatents > 1 else { return try queryUp(rows, columns) }
                return CUDAWeight(try perHead(rows, columns), .bf16, rows: rows, width: columns)
            },
            queryUpBias: rank != nil && latent.hasUpBias ? try vector(shape.latentQueries, 0) : nil,
            norm: try vector(latent.latentHeads * latent.latentWidth, 1),
            keyUp: try perHead(shape.heads * latent.latentWidth, latent.contentWidth),
            valueUp: try perHead(shape.attended, latent.latentWidth),
            valueBias: latent.hasUpBias ? try vector(shape.attended, 0) : nil)
    }
}

/// Cuts the up-projection of a latent head, rows of [content of the key | value] for each of its query heads, into what absorbed
/// reading multiplies by. Biases of keys add the same to all scores of a query, and are left out.
package struct LatentUpProjection {
    private let heads: Int, content: Int, value: Int, width: Int

    /// For a latent head of so many query heads.
    package init(_ widths: LatentConfiguration, heads: Int) {
        self.heads = heads
        content = widths.contentWidth
        value = widths.valueWidth
        width = widths.latentWidth
    }

    private var rows: Int { content + value }

    /// `[head][latent width][content]`.
    package func keys(_ up: [UInt16]) -> [UInt16] {
        [UInt16](unsafeUninitializedCapacity: heads * width * content) { target, count in
            up.withUnsafeBufferPointer { up in
                for head in 0..<heads {
                    for row in 0..<content {
                        let source = (head * rows + row) * width
                        for column in 0..<width {
                            target[(head * width + column) * content + row] = up[source + column]
                        }
                    }
                }
            }
            count = heads * width * content
        }
    }

    /// `[head][value][latent width]`.
    package func values(_ up: [UInt16]) -> [UInt16] {
        (0..<heads).flatMap { up[($0 * rows + content) * width..<($0 + 1) * rows * width] }
    }

    /// `[head][value]`.
    package func valueBiases(_ bias: [Float]) -> [Float] {
        (0..<heads).flatMap { bias[$0 * rows + content..<($0 + 1) * rows] }
    }
}

// MARK: First projections

extension DecoderConfiguration {
    /// Whether something is added to what a layer's first product gives.
    var hasFirstBias: Bool { firstProjections.contains { $0.bias != nil } }

    /// The weights whose rows a layer's first product has, one after the other, and the bias of each that has one.
    var firstProjections: [(weight: LayerTensor, bias: LayerTensor?)] {
        switch attention {
        case .grouped:
            return zip([LayerTensor.query, .key, .value], [LayerTensor.queryBias, .keyBias, .valueBias])
                .map { ($0, attentionBias ? $1 : nil) }
        case .tied:
            return [
                (.query, attentionBias ? .queryBias : nil), (.tiedState, attentionBias ? .tiedStateBias : nil),
                (.rotaryKey, .rotaryKeyBias),
            ]
        case .latent(let latent):
            return [
                latent.queryRank == nil
                    ? (.query, latent.hasUpBias ? .queryBias : nil)
                    : (.queryDown, latent.hasDownBias ? .queryDownBias : nil),
                (.latentDown, latent.hasDownBias ? .latentDownBias : nil),
            ]
        }
    }
}

extension DecoderLoader {
    /// The weights whose rows a layer's first product has, and the bias of all of them, or none.
    func firstProjections(_ index: Int) throws -> (weights: [Tensor], bias: [Float]?) {
        // Files may hold the three of grouped attention in one.
        if configuration.attention == .grouped {
            let (weights, biases) = try projectionTensors(index)
            return (weights, configuration.attentionBias ? biases.flatMap { $0.map(\.floats) ?? [] } : nil)
        }
        let parts = configuration.firstProjections
        let weights = try parts.map { try tensor(index, $0.weight) }
        guard parts.contains(where: { $0.bias != nil }) else { return (weights, nil) }
        let biases = try zip(parts, weights).flatMap { part, weight in
            try part.bias.map { try tensor(index, $0).float32().floats }
                ?? [Float](repeating: 0, count: weight.shape[0])
        }
        return (weights, biases)
    }
}
