import ApusAttention
import ApusLayers
import ApusTensor

/// The attention of each variant.
extension DecoderLoader {
    func attention(_ index: Int) throws -> any DecodeAttention {
        switch configuration.attention {
        case .grouped: try groupedAttention(index)
        case .tied: try tiedAttention(index)
        case .latent(let widths): try latentAttention(index, widths)
        }
    }

    private func parameters(_ index: Int) -> AttentionParameters {
        AttentionParameters(scale: Float(configuration.attentionScale), window: configuration.windows[index])
    }

    private func groupedAttention(_ index: Int) throws -> GroupedAttention {
        let terms = try projections(index)
        let epsilon = Float(configuration.normEpsilon)
        func headNorm(_ part: LayerTensor) throws -> Norm? {
            guard configuration.queryKeyNorm else { return nil }
            return .rms(weight: try tensor(index, part).float32(), epsilon: epsilon, backend: backend)
        }
        return GroupedAttention(
            layer: index, query: terms[0], key: terms[1], value: terms[2], queryNorm: try headNorm(.queryNorm),
            keyNorm: try headNorm(.keyNorm), geometry: try configuration.geometry(layer: index),
            parameters: parameters(index),
            usesSlidingRotary: configuration.windows[index] != nil && configuration.slidingRotary != nil,
            backend: backend)
    }

    private func tiedAttention(_ index: Int) throws -> TiedAttention {
        let hasBias = configuration.attentionBias
        return TiedAttention(
            layer: index, query: try term(index, .query, .queryBias, hasBias: hasBias),
            state: try term(index, .tiedState, .tiedStateBias, hasBias: hasBias),
            rotaryKey: try term(index, .rotaryKey, .rotaryKeyBias, hasBias: true),
            geometry: try configuration.geometry(layer: index), parameters: parameters(index), backend: backend)
    }

    private func latentAttention(_ index: Int, _ widths: LatentConfiguration) throws -> LatentAttention {
        let query: LatentAttention.Query
        if widths.queryRank == nil {
            query = .direct(try term(index, .query, .queryBias, hasBias: widths.hasUpBias))
        } else {
            query = .latent(
                down: try term(index, .queryDown, .queryDownBias, hasBias: widths.hasDownBias),
                norm: try stacked((0..<widths.queryLatents).map { try tensor(index, .queryLatentNorm($0)).float32() }),
                up: try (0..<widths.queryLatents).map {
                    try term(index, .queryUp($0), .queryUpBias($0), hasBias: widths.hasUpBias)
                })
        }
        return try LatentAttention(
            layer: index, widths: widths, query: query,
            down: try term(index, .latentDown, .latentDownBias, hasBias: widths.hasDownBias),
            latentNorm: try stacked((0..<widths.latentHeads).map { try tensor(index, .latentNorm($0)).float32() }),
            up: try (0..<widths.latentHeads).map {
                (
                    try tensor(index, .latentUp($0)),
                    widths.hasUpBias ? try tensor(index, .latentUpBias($0)).float32() : nil
                )
            }, geometry: try configuration.geometry(layer: index), parameters: parameters(index), backend: backend)
    }

    /// Vectors of one length as the rows of a matrix.
    private func stacked(_ vectors: [Tensor]) -> Tensor {
        Tensor(vectors.flatMap(\.floats), shape: [vectors.count, vectors[0].count])
    }

    /// Query, key and value projections.
    private func projections(_ index: Int) throws -> [LinearTerm] {
        let (weights, biases) = try projectionTensors(index)
        return try zip(weights, biases).map { LinearTerm(try prepare($0), bias: $1) }
    }

    /// Weights and float32 biases of query, key and value projections, cut out of the fused weight where the file has one.
    func projectionTensors(_ index: Int) throws -> (weights: [Tensor], biases: [Tensor?]) {
        var biases: [Tensor?] = [nil, nil, nil]
        if let fused = configuration.fusedQKV {
            if configuration.attentionBias {
                biases = split(try tensor(index, .fusedQKVBias).float32(), fused)
            }
            return (split(try tensor(index, .fusedQKV), fused), biases)
        }
        if configuration.attentionBias {
            biases = try [.queryBias, .keyBias, .valueBias].map { try tensor(index, $0).float32() }
        }
        return (try [.query, .key, .value].map { try tensor(index, $0) }, biases)
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
}
