import ApusAttention

extension Recipe {
    /// Tokens of one optimiser step.
    public var tokensPerStep: Int { data.sequenceLength * data.batchSize * data.accumulation }

    /// Optimiser steps of the whole run.
    public var resolvedSteps: Int {
        if let steps = training.steps { return steps }
        return training.tokens.map { ($0 + tokensPerStep - 1) / tokensPerStep } ?? 1000
    }

    /// Steps of linear warm-up: a tenth of the run, at most 100, unless given.
    public var resolvedWarmupSteps: Int { schedule.warmupSteps ?? min(100, resolvedSteps / 10) }
}

extension Recipe.Model {
    /// The head width (d_h): hidden size over heads unless given.
    public var resolvedHeadWidth: Int { headWidth ?? hiddenSize / heads }

    /// The KV heads (h_kv) of the variant: all heads for mha, 1 for mqa; for gqa and gta a quarter of the heads, at
    /// least 2, unless given.
    public var resolvedKVHeads: Int {
        switch attention {
        case .mha: heads
        case .mqa: 1
        case .gqa, .gta: kvHeads ?? min(heads, max(2, heads / 4))
        case .mla, .gla, .glaQ: resolvedLatentHeads
        }
    }

    /// The latent heads (h_c) of the variant: 1 but for gla and gla_q.
    public var resolvedLatentHeads: Int { attention == .gla || attention == .glaQ ? latentHeads : 1 }

    /// The latent width (d_c): 4 d_h for mla, 2 d_h for gla, as in the paper, unless given.
    public var resolvedLatentWidth: Int { latentWidth ?? (attention == .mla ? 4 : 2) * resolvedHeadWidth }

    /// The RoPE width (d_R): the head width for mha, mqa and gqa; half of it for the others unless given.
    public var resolvedRopeWidth: Int {
        switch attention {
        case .mha, .mqa, .gqa: resolvedHeadWidth
        case .gta, .mla, .gla, .glaQ: ropeWidth ?? resolvedHeadWidth / 2
        }
    }

    /// The width of the low-rank query of mla, gla and gla_q, nil for a full one: 8 d_h as in the paper where that is
    /// less than the hidden size; else a full query, or half the hidden size for gla_q, which has no other form.
    public var resolvedQueryRank: Int? {
        switch attention {
        case .mha, .mqa, .gqa, .gta: return nil
        case .mla, .gla, .glaQ:
            if let queryRank { return queryRank == 0 ? nil : queryRank }
            let rank = 8 * resolvedHeadWidth
            return rank < hiddenSize ? rank : attention == .glaQ ? hiddenSize / 2 : nil
        }
    }

    /// The feed-forward width: 8/3 of the hidden size, rounded up to a multiple of 64, unless given.
    public var resolvedFeedForwardWidth: Int {
        feedForwardWidth ?? (hiddenSize * 8 + 3 * 64 - 1) / (3 * 64) * 64
    }

    /// What a token leaves in the cache of one layer.
    /// - Throws: `GeometryError` where the sizes do not fit; a recipe that was read has been checked.
    public func cacheGeometry() throws -> CacheGeometry {
        let width = resolvedHeadWidth
        switch attention {
        case .mha, .mqa, .gqa: return try .gqa(queryHeads: heads, kvHeads: resolvedKVHeads, headWidth: width)
        case .gta:
            return try .gta(
                queryHeads: heads, kvHeads: resolvedKVHeads, headWidth: width, ropeWidth: resolvedRopeWidth)
        case .mla, .gla, .glaQ:
            return try .gla(
                queryHeads: heads, latentHeads: resolvedLatentHeads, latentWidth: resolvedLatentWidth,
                ropeWidth: resolvedRopeWidth)
        }
    }

    /// The variant's name with its number of states where that is free, as in the paper: GQA-4, GTA-4, GLA-2.
    public var attentionName: String {
        switch attention {
        case .mha, .mqa, .mla: attention.rawValue.uppercased()
        case .gqa, .gta: "\(attention.rawValue.uppercased())-\(resolvedKVHeads)"
        case .gla: "GLA-\(latentHeads)"
        case .glaQ: "GLA_q-\(latentHeads)"
        }
    }
}
