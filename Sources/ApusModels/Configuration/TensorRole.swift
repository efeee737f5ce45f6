import ApusTensor

/// A weight's place in the decoder, whatever its file calls it.
public enum TensorRole: Sendable, Hashable {
    /// Token embedding, [vocabularySize, hiddenSize].
    case tokenEmbedding
    /// Weight of the norm before the head, [hiddenSize].
    case finalNorm
    /// Bias of the norm before the head, [hiddenSize].
    case finalNormBias
    /// Output head, [vocabularySize, hiddenSize]; absent where it is tied to the embedding.
    case head
    /// Score head, [labels, hiddenSize].
    case score
    /// A weight of one layer.
    case layer(Int, LayerTensor)
}

/// A weight's place in one layer. Projections are [outputs, inputs].
public enum LayerTensor: String, Sendable, Hashable, CaseIterable {
    /// Norm before the attention.
    case attentionNorm, attentionNormBias
    /// Projections to queries, keys and values.
    case query, key, value, queryBias, keyBias, valueBias
    /// The three in one, in the order ``DecoderConfiguration/FusedQKV`` says.
    case fusedQKV, fusedQKVBias
    /// Per-head norms of queries and keys, [headWidth].
    case queryNorm, keyNorm
    /// Projection of the heads' outputs.
    case output, outputBias
    /// Norm before the feed-forward.
    case feedForwardNorm, feedForwardNormBias
    /// The feed-forward's projections.
    case gate, up, down, gateBias, upBias, downBias
}

extension DecoderConfiguration {
    /// Every weight the model has, in the order it uses them.
    public var tensorRoles: [TensorRole] {
        var roles: [TensorRole] = [.tokenEmbedding]
        let tensors = layerTensors
        for layer in 0..<layerCount { roles += tensors.map { .layer(layer, $0) } }
        roles.append(.finalNorm)
        if normKind == .layer { roles.append(.finalNormBias) }
        switch head {
        case .languageModel: if !tiesEmbeddings { roles.append(.head) }
        case .score: roles.append(.score)
        }
        return roles
    }

    /// The weights of one layer.
    public var layerTensors: [LayerTensor] {
        var tensors: [LayerTensor] = [.attentionNorm]
        func add(_ condition: Bool, _ more: LayerTensor...) { if condition { tensors += more } }
        add(normKind == .layer, .attentionNormBias)
        add(fusedQKV == nil, .query, .key, .value)
        add(fusedQKV == nil && attentionBias, .queryBias, .keyBias, .valueBias)
        add(fusedQKV != nil, .fusedQKV)
        add(fusedQKV != nil && attentionBias, .fusedQKVBias)
        add(queryKeyNorm, .queryNorm, .keyNorm)
        add(true, .output)
        add(attentionOutputBias, .outputBias)
        add(true, .feedForwardNorm)
        add(normKind == .layer, .feedForwardNormBias)
        add(isGated, .gate)
        add(true, .up, .down)
        add(feedForwardBias && isGated, .gateBias)
        add(feedForwardBias, .upBias, .downBias)
        return tensors
    }

    /// The shape a weight must have.
    public func shape(of role: TensorRole) -> Shape {
        switch role {
        case .tokenEmbedding, .head: [vocabularySize, hiddenSize]
        case .finalNorm, .finalNormBias: [hiddenSize]
        case .score: if case .score(let labels) = head { [labels, hiddenSize] } else { [1, hiddenSize] }
        case .layer(_, let tensor): shape(of: tensor)
        }
    }

    private func shape(of tensor: LayerTensor) -> Shape {
        let queries = queryHeads * headWidth
        let keys = kvHeads * headWidth
        return switch tensor {
        case .attentionNorm, .attentionNormBias, .feedForwardNorm, .feedForwardNormBias, .outputBias, .downBias:
            [hiddenSize]
        case .query: [queries, hiddenSize]
        case .key, .value: [keys, hiddenSize]
        case .queryBias: [queries]
        case .keyBias, .valueBias: [keys]
        case .fusedQKV: [queries + 2 * keys, hiddenSize]
        case .fusedQKVBias: [queries + 2 * keys]
        case .queryNorm, .keyNorm: [headWidth]
        case .output: [hiddenSize, queries]
        case .gate, .up: [feedForwardWidth, hiddenSize]
        case .down: [hiddenSize, feedForwardWidth]
        case .gateBias, .upBias: [feedForwardWidth]
        }
    }
}
