import ApusAttention
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

/// A weight's place in one layer. Projections are [outputs, inputs]; h_q, h_kv and h_c count query, KV and latent heads, d_h
/// is the head width, d_c the latent width, d_R the RoPE width.
public enum LayerTensor: Sendable, Hashable {
    /// Norm before the attention.
    case attentionNorm, attentionNormBias

    /// Projections to queries, keys and values: [h_q · d_h, hidden] and [h_kv · d_h, hidden], head after head.
    ///
    /// A query head is [content | RoPE] in tied and latent attention: [h_q · d_h, hidden] with RoPE on the last d_R of each
    /// head (tied), or [h_q · (content + d_R), hidden] (latent without a query latent).
    case query, key, value, queryBias, keyBias, valueBias
    /// The three in one, in the order ``DecoderConfiguration/FusedQKV`` says.
    case fusedQKV, fusedQKVBias
    /// Per-head norms of queries and keys, [d_h].
    case queryNorm, keyNorm
    /// Projection of the heads' outputs, head after head: [hidden, h_q · value width].
    case output, outputBias

    /// Tied attention's state, [h_kv · d_h, hidden], head after head; each head is [key and value | value only], the
    /// latter d_R wide.
    case tiedState, tiedStateBias
    /// The RoPE key that all heads read, [d_R, hidden] (in latent attention it is the end of ``latentDown``).
    case rotaryKey, rotaryKeyBias

    /// Projection to the query latent, [queryRank, hidden]; split latents one after the other.
    case queryDown, queryDownBias
    /// Norm of query latent i, [queryRank / query latents].
    case queryLatentNorm(Int)
    /// From query latent i to the queries of its heads, head after head, each [content | RoPE]:
    /// [h_q / query latents · (content + d_R), queryRank / query latents].
    case queryUp(Int), queryUpBias(Int)
    /// Projection to all latents, one after the other, then the RoPE key: [h_c · d_c + d_R, hidden].
    case latentDown, latentDownBias
    /// Norm of latent i, [d_c].
    case latentNorm(Int)
    /// From latent i to keys and values of its query heads, head after head, each [content of the key | value]:
    /// [h_q / h_c · (content + value), d_c].
    case latentUp(Int), latentUpBias(Int)

    /// Norm before the feed-forward.
    case feedForwardNorm, feedForwardNormBias
    /// The feed-forward's projections: [width, hidden] twice, [hidden, width].
    case gate, up, down, gateBias, upBias, downBias

    /// Router of a mixture of experts, [experts, hidden], and the bias that corrects its choice, [experts].
    case router, routerCorrection
    /// Projections of routed expert i, as those of a feed-forward.
    case expertGate(Int), expertUp(Int), expertDown(Int)
    /// Projections of the shared experts, one feed-forward.
    case sharedGate, sharedUp, sharedDown
}

extension DecoderConfiguration {
    /// Every weight the model has, in the order it uses them.
    public var tensorRoles: [TensorRole] {
        var roles: [TensorRole] = [.tokenEmbedding]
        for layer in 0..<layerCount { roles += layerTensors(layer: layer).map { .layer(layer, $0) } }
        roles.append(.finalNorm)
        if normKind == .layer { roles.append(.finalNormBias) }
        switch head {
        case .languageModel: if !tiesEmbeddings { roles.append(.head) }
        case .score: roles.append(.score)
        }
        return roles
    }

    /// The weights of one layer.
    public func layerTensors(layer: Int) -> [LayerTensor] {
        var tensors: [LayerTensor] = [.attentionNorm]
        if normKind == .layer { tensors.append(.attentionNormBias) }
        tensors += attentionTensors
        tensors.append(.output)
        if attentionOutputBias { tensors.append(.outputBias) }
        tensors.append(.feedForwardNorm)
        if normKind == .layer { tensors.append(.feedForwardNormBias) }
        return tensors + (hasExperts(layer: layer) ? expertTensors : feedForwardTensors)
    }

    /// What stands between the norm before the attention and the output projection.
    private var attentionTensors: [LayerTensor] {
        var tensors: [LayerTensor] = []
        func add(_ condition: Bool, _ more: LayerTensor...) { if condition { tensors += more } }
        switch attention {
        case .grouped:
            add(fusedQKV == nil, .query, .key, .value)
            add(fusedQKV == nil && attentionBias, .queryBias, .keyBias, .valueBias)
            add(fusedQKV != nil, .fusedQKV)
            add(fusedQKV != nil && attentionBias, .fusedQKVBias)
            add(queryKeyNorm, .queryNorm, .keyNorm)
        case .tied:
            add(true, .query, .tiedState, .rotaryKey, .rotaryKeyBias)
            add(attentionBias, .queryBias, .tiedStateBias)
        case .latent(let latent):
            add(latent.queryRank == nil, .query)
            add(latent.queryRank == nil && latent.hasUpBias, .queryBias)
            add(latent.queryRank != nil, .queryDown)
            add(latent.queryRank != nil && latent.hasDownBias, .queryDownBias)
            for index in 0..<latent.queryLatents {
                add(true, .queryLatentNorm(index), .queryUp(index))
                add(latent.hasUpBias, .queryUpBias(index))
            }
            add(true, .latentDown)
            add(latent.hasDownBias, .latentDownBias)
            for index in 0..<latent.latentHeads {
                add(true, .latentNorm(index), .latentUp(index))
                add(latent.hasUpBias, .latentUpBias(index))
            }
        }
        return tensors
    }

    private var feedForwardTensors: [LayerTensor] {
        var tensors: [LayerTensor] = isGated ? [.gate, .up, .down] : [.up, .down]
        if feedForwardBias {
            if isGated { tensors.append(.gateBias) }
            tensors += [.upBias, .downBias]
        }
        return tensors
    }

    private var expertTensors: [LayerTensor] {
        guard let experts else { return [] }
        var tensors: [LayerTensor] = [.router]
        if experts.hasCorrection { tensors.append(.routerCorrection) }
        for index in 0..<experts.count { tensors += [.expertGate(index), .expertUp(index), .expertDown(index)] }
        if experts.sharedWidth > 0 { tensors += [.sharedGate, .sharedUp, .sharedDown] }
        return tensors
    }

    /// The shape a weight must have. Precondition: the model has such a weight.
    public func shape(of role: TensorRole) -> Shape {
        switch role {
        case .tokenEmbedding, .head: [vocabularySize, hiddenSize]
        case .finalNorm, .finalNormBias: [hiddenSize]
        case .score: if case .score(let labels) = head { [labels, hiddenSize] } else { [1, hiddenSize] }
        case .layer(_, let tensor): shape(of: tensor)
        }
    }

    private func shape(of tensor: LayerTensor) -> Shape {
        let keys = kvHeads * headWidth
        return switch tensor {
        case .attentionNorm, .attentionNormBias, .feedForwardNorm, .feedForwardNormBias, .outputBias, .downBias:
            [hiddenSize]
        case .query: [queryRows, hiddenSize]
        case .key, .value, .tiedState: [keys, hiddenSize]
        case .queryBias: [queryRows]
        case .keyBias, .valueBias, .tiedStateBias: [keys]
        case .fusedQKV: [queryRows + 2 * keys, hiddenSize]
        case .fusedQKVBias: [queryRows + 2 * keys]
        case .queryNorm, .keyNorm: [headWidth]
        case .output: [hiddenSize, queryHeads * headValueWidth]
        case .rotaryKey: [rotary.width, hiddenSize]
        case .rotaryKeyBias: [rotary.width]
        case .queryDown, .queryDownBias, .queryLatentNorm, .queryUp, .queryUpBias, .latentDown, .latentDownBias,
            .latentNorm, .latentUp, .latentUpBias:
            latentShape(of: tensor)
        case .gate, .up: [feedForwardWidth, hiddenSize]
        case .down: [hiddenSize, feedForwardWidth]
        case .gateBias, .upBias: [feedForwardWidth]
        case .router: [experts?.count ?? 0, hiddenSize]
        case .routerCorrection: [experts?.count ?? 0]
        case .expertGate, .expertUp: [experts?.width ?? 0, hiddenSize]
        case .expertDown: [hiddenSize, experts?.width ?? 0]
        case .sharedGate, .sharedUp: [experts?.sharedWidth ?? 0, hiddenSize]
        case .sharedDown: [hiddenSize, experts?.sharedWidth ?? 0]
        }
    }

    /// Rows of all query heads.
    private var queryRows: Int {
        if case .latent(let latent) = attention { queryHeads * latent.queryWidth } else { queryHeads * headWidth }
    }

    private func latentShape(of tensor: LayerTensor) -> Shape {
        guard case .latent(let latent) = attention else { preconditionFailure("no latent has \(tensor)") }
        let rank = latent.queryRank ?? 0
        let split = max(latent.queryLatents, 1)
        let down = latent.latentHeads * latent.latentWidth + latent.rotaryWidth
        let up = queryHeads / latent.latentHeads * (latent.contentWidth + latent.valueWidth)
        return switch tensor {
        case .queryDown: [rank, hiddenSize]
        case .queryDownBias: [rank]
        case .queryLatentNorm: [rank / split]
        case .queryUp: [queryRows / split, rank / split]
        case .queryUpBias: [queryRows / split]
        case .latentDown: [down, hiddenSize]
        case .latentDownBias: [down]
        case .latentNorm: [latent.latentWidth]
        case .latentUp: [up, latent.latentWidth]
        default: [up]
        }
    }
}
