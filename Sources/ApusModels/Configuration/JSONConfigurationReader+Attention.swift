import ApusAttention
import ApusText

/// Attention variants and experts in `config.json`.
extension JSONConfigurationReader {
    private typealias Limits = DecoderConfiguration

    /// KV heads; latent attention has as many as query heads wherever the key says otherwise.
    func kvHeads(queryHeads: Int) throws -> Int {
        if architecture == .gptNeoX || architecture.isDeepSeekLike { return queryHeads }
        if architecture == .llama, try node.optional("qk_rope_dim") != nil { return queryHeads }
        return try node.int("num_key_value_heads", default: queryHeads)
    }

    /// The variant: DeepSeek's keys in its families, `rope_dim` (GTA) or `qk_rope_dim` (GLA) in Llama's.
    func attention(headWidth: Int, hidden: Int, queryHeads: Int) throws -> AttentionConfiguration {
        if architecture.isDeepSeekLike { return .latent(try deepSeek(hidden: hidden, queryHeads: queryHeads)) }
        guard architecture == .llama else { return .grouped }
        if let width = try node.optional("qk_rope_dim") { return .latent(try grouped(width, headWidth: headWidth)) }
        if let width = try node.optional("rope_dim") { return .tied(rotaryWidth: try width.int(in: evenLimit)) }
        return .grouped
    }

    private var limit: ClosedRange<Int> { 1...Limits.maximumWidth }
    private var evenLimit: ClosedRange<Int> { 2...Limits.maximumWidth }

    private func width(_ key: String, default fallback: Int) throws -> Int {
        try node.optional(key)?.int(in: limit) ?? fallback
    }

    /// The released file fixes two latent heads of 2 d_h, a query latent of 8 d_h and biases; the keys that change these
    /// are this project's own.
    private func grouped(_ rotaryWidth: JSONNode, headWidth: Int) throws -> LatentConfiguration {
        var rank: Int? = 8 * headWidth
        if let stated = node.value["q_latent_dim"] {
            rank = stated.isNull ? nil : try width("q_latent_dim", default: 1)
        }
        let hasBias = try node.bool("latent_bias", default: true)
        return LatentConfiguration(
            latentHeads: try width("num_latent_heads", default: 2),
            latentWidth: try width("kv_latent_dim", default: 2 * headWidth),
            rotaryWidth: try rotaryWidth.int(in: evenLimit), contentWidth: headWidth, valueWidth: headWidth,
            queryRank: rank, splitsQueryLatent: try node.bool("split_q_latent", default: false), hasDownBias: hasBias,
            hasUpBias: hasBias, normEpsilon: try node.double("rms_norm_eps", default: 1e-6))
    }

    private func deepSeek(hidden: Int, queryHeads: Int) throws -> LatentConfiguration {
        let isMini = architecture == .miniCPM3
        var rank: Int? = isMini ? 768 : 1536
        if let stated = node.value["q_lora_rank"] { rank = stated.isNull ? nil : try width("q_lora_rank", default: 1) }
        return LatentConfiguration(
            latentHeads: 1, latentWidth: try width("kv_lora_rank", default: isMini ? 256 : 512),
            rotaryWidth: try node.optional("qk_rope_head_dim")?.int(in: evenLimit) ?? (isMini ? 32 : 64),
            contentWidth: try width("qk_nope_head_dim", default: isMini ? 64 : 128),
            valueWidth: try width("v_head_dim", default: isMini ? max(hidden / queryHeads, 1) : 128), queryRank: rank,
            hasDownBias: try node.bool("attention_bias", default: false))
    }

    /// The mixture of experts of DeepSeek's families; nil where every layer is dense.
    func experts(layers: Int) throws -> ExpertConfiguration? {
        guard architecture == .deepseekV2 || architecture == .deepseekV3 else { return nil }
        let isThird = architecture == .deepseekV3
        let dense = try node.optional("first_k_dense_replace")?.int(in: 0...Limits.maximumLayers) ?? (isThird ? 3 : 0)
        if node.value["n_routed_experts"]?.isNull == true || dense >= layers { return nil }
        let frequency = try node.int("moe_layer_freq", default: 1)
        guard frequency == 1 else { throw unsupported("moe_layer_freq", "\(frequency)", "1") }
        let width = try self.width("moe_intermediate_size", default: isThird ? 2048 : 1407)
        let shared = try node.optional("n_shared_experts")?.int(in: 0...1024) ?? (isThird ? 1 : 2)
        return ExpertConfiguration(
            count: try self.width("n_routed_experts", default: isThird ? 256 : 64),
            expertsPerToken: try expertsPerToken(isThird), width: width, sharedWidth: shared * width,
            denseLayers: dense, scoring: try scoring(isThird), selection: try selection(isThird),
            // As in transformers, which does not read the key in DeepSeek-V2, whose released models leave it off.
            normalisesWeights: isThird ? try node.bool("norm_topk_prob", default: true) : false,
            weightScale: try node.double("routed_scaling_factor", default: isThird ? 2.5 : 1))
    }

    private func expertsPerToken(_ isThird: Bool) throws -> Int {
        if !isThird { return try node.child("num_experts_per_tok", expected: "an integer").int(in: limit) }
        return try width("num_experts_per_tok", default: 8)
    }

    private func scoring(_ isThird: Bool) throws -> ExpertConfiguration.Scoring {
        let expected = isThird ? ExpertConfiguration.Scoring.sigmoid : .softmax
        let name = try node.string("scoring_func", default: expected.rawValue)
        guard name == expected.rawValue else { throw unsupported("scoring_func", name, expected.rawValue) }
        return expected
    }

    private func selection(_ isThird: Bool) throws -> ExpertConfiguration.Selection {
        let method = try node.string("topk_method", default: isThird ? "noaux_tc" : "greedy")
        func groups() throws -> (Int, Int) {
            (
                try node.optional("n_group")?.int(in: limit) ?? (isThird ? 8 : 1),
                try node.optional("topk_group")?.int(in: limit) ?? (isThird ? 4 : 1)
            )
        }
        switch (method, isThird) {
        case ("greedy", false): return .greedy
        case ("group_limited_greedy", false):
            let (groups, kept) = try groups()
            return .groupLimited(groups: groups, kept: kept)
        case ("noaux_tc", true):
            let (groups, kept) = try groups()
            return .corrected(groups: groups, kept: kept)
        default: throw unsupported("topk_method", method, isThird ? "noaux_tc" : "greedy, group_limited_greedy")
        }
    }
}
