import ApusAttention

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Attention variants and experts in GGUF metadata: llama.cpp's `deepseek2` and `minicpm3`, and this project's own
/// architectures.
extension GGUFConfigurationReader {
    private var widths: ClosedRange<Int> { 1...DecoderConfiguration.maximumWidth }

    private func optional(_ suffix: String, _ range: ClosedRange<Int>) throws -> Int? {
        try integer(suffix) == nil ? nil : required(suffix, range)
    }

    /// The variant.
    func attention(hidden: Int, queryHeads: Int) throws -> AttentionConfiguration {
        if prefix == Self.tiedName { return .tied(rotaryWidth: try required("rope.dimension_count", widths)) }
        guard architecture.isDeepSeekLike || prefix == Self.latentName else { return .grouped }
        let rotaryWidth = try required("rope.dimension_count", widths)
        // Files that state the latent's own widths as the key's and the value's keep the heads' under `_mla`.
        let keyWidth = try optional("attention.key_length_mla", widths) ?? required("attention.key_length", widths)
        let valueWidth =
            try optional("attention.value_length_mla", widths) ?? required("attention.value_length", widths)
        guard keyWidth > rotaryWidth else {
            throw malformed("\(prefix).attention.key_length", "more than the RoPE width \(rotaryWidth)", "\(keyWidth)")
        }
        return .latent(
            LatentConfiguration(
                latentHeads: try optional("attention.latent_head_count", widths) ?? 1,
                latentWidth: try required("attention.kv_lora_rank", widths), rotaryWidth: rotaryWidth,
                contentWidth: keyWidth - rotaryWidth, valueWidth: valueWidth,
                // A rank of 0 stands for a direct projection.
                queryRank: try optional("attention.q_lora_rank", 0...DecoderConfiguration.maximumWidth).flatMap {
                    $0 == 0 ? nil : $0
                },
                splitsQueryLatent: try bool("attention.split_query_latent") ?? false,
                hasDownBias: has(.latentDownBias), hasUpBias: has(.latentUpBias(0)),
                normEpsilon: try number("attention.latent_norm_epsilon")
                    ?? (architecture.isDeepSeekLike
                        ? 1e-6 : number("attention.layer_norm_rms_epsilon") ?? 1e-5)))
    }

    /// Width of a head, of latent attention that of its content.
    func headWidth(_ attention: AttentionConfiguration, hidden: Int, queryHeads: Int) throws -> Int {
        if case .latent(let latent) = attention { return latent.contentWidth }
        return try integer("attention.key_length") ?? hidden / queryHeads
    }

    /// KV heads; what latent attention's files say there is of no use.
    func kvHeads(_ attention: AttentionConfiguration, queryHeads: Int) throws -> Int {
        if case .latent = attention { return queryHeads }
        return try integer("attention.head_count_kv") ?? queryHeads
    }

    /// DeepSeek's factor on the scores, by the logarithm's multiplier that YaRN's mscale becomes.
    func attentionScaleFactor() throws -> Double {
        guard architecture.isDeepSeekLike, let multiplier = try number("rope.scaling.yarn_log_multiplier"),
            let factor = try number("rope.scaling.factor"), factor > 1
        else { return 1 }
        let scale = 1 + multiplier * log(factor)
        return scale * scale
    }

    /// Factors on embeddings, residual branches and logits, which llama.cpp's own MiniCPM3 files leave out.
    func scales(layers: Int, hidden: Int) throws -> (embedding: Double, residual: Double, logit: Double) {
        let isMini = architecture == .miniCPM3
        return (
            try number("embedding_scale") ?? (isMini ? 12 : 1),
            try number("residual_scale") ?? (isMini ? 1.4 / Double(layers).squareRoot() : 1),
            try number("logit_scale") ?? (isMini ? 256 / Double(hidden) : 1)
        )
    }

    /// The mixture of experts; nil where every layer is dense.
    func experts(layers: Int) throws -> ExpertConfiguration? {
        guard architecture == .deepseekV2 || architecture == .deepseekV3, let count = try integer("expert_count"),
            count > 0
        else { return nil }
        let dense = try optional("leading_dense_block_count", 0...DecoderConfiguration.maximumLayers) ?? 0
        if dense >= layers { return nil }
        let isThird = architecture == .deepseekV3
        let width = try required("expert_feed_forward_length", widths)
        let groups = try optional("expert_group_count", widths) ?? 1
        let kept = try optional("expert_group_used_count", widths) ?? 1
        let selection: ExpertConfiguration.Selection =
            isThird
            ? .corrected(groups: groups, kept: kept)
            : groups > 1 ? .groupLimited(groups: groups, kept: kept) : .greedy
        return ExpertConfiguration(
            count: count, expertsPerToken: try required("expert_used_count", widths), width: width,
            sharedWidth: try (optional("expert_shared_count", 0...1024) ?? 0) * width, denseLayers: dense,
            scoring: isThird ? .sigmoid : .softmax, selection: selection,
            normalisesWeights: try bool("expert_weights_norm") ?? false,
            weightScale: try number("expert_weights_scale").flatMap { $0 == 0 ? nil : $0 } ?? 1)
    }
}
