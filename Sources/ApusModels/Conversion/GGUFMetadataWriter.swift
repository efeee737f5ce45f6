import ApusAttention
import ApusTensor

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Writes a configuration as GGUF metadata: the specification's keys, those of llama.cpp's `deepseek2` and `minicpm3`, and for
/// this project's own architectures `attention.latent_head_count`, `attention.split_query_latent` and
/// `attention.latent_norm_epsilon`.
struct GGUFMetadataWriter {
    private let configuration: DecoderConfiguration
    private let prefix: String
    private(set) var entries: [(key: String, value: GGUFValue)] = []

    /// - Parameter architecture: what ``DecoderConfiguration/ggufArchitecture(source:)`` says.
    init(_ configuration: DecoderConfiguration, architecture: String) {
        self.configuration = configuration
        prefix = architecture
        entries.append(("general.architecture", .string(architecture)))
        writeSizes()
        writeAttention()
        writeExperts()
        writeRotary()
        writeTokens()
    }

    private mutating func set(_ suffix: String, _ value: Int) {
        entries.append(("\(prefix).\(suffix)", .uint32(UInt32(clamping: value))))
    }

    private mutating func set(_ suffix: String, _ value: Double) {
        entries.append(("\(prefix).\(suffix)", .float32(Float(value))))
    }

    private mutating func writeSizes() {
        set("vocab_size", configuration.vocabularySize)
        set("context_length", configuration.maxPositions)
        set("embedding_length", configuration.hiddenSize)
        set("block_count", configuration.layerCount)
        set("feed_forward_length", configuration.feedForwardWidth)
        if configuration.normKind == .layer {
            set("attention.layer_norm_epsilon", configuration.normEpsilon)
        } else {
            set("attention.layer_norm_rms_epsilon", configuration.normEpsilon)
        }
        if configuration.architecture == .gptNeoX {
            entries.append(("\(prefix).use_parallel_residual", .bool(configuration.parallelResidual)))
        }
        if configuration.architecture == .miniCPM3 {
            set("embedding_scale", configuration.embeddingScale)
            set("residual_scale", configuration.residualScale)
            set("logit_scale", configuration.logitScale)
        }
    }

    private mutating func writeAttention() {
        set("attention.head_count", configuration.queryHeads)
        set("attention.head_count_kv", configuration.kvHeads)
        if let window = configuration.windows.first ?? nil { set("attention.sliding_window", window) }
        guard case .latent(let latent) = configuration.attention else {
            set("attention.key_length", configuration.headWidth)
            set("attention.value_length", configuration.headWidth)
            return
        }
        set("attention.key_length", latent.queryWidth)
        set("attention.value_length", latent.valueWidth)
        set("attention.kv_lora_rank", latent.latentWidth)
        if let rank = latent.queryRank { set("attention.q_lora_rank", rank) }
        guard prefix == GGUFConfigurationReader.latentName else { return }
        set("attention.latent_head_count", latent.latentHeads)
        set("attention.latent_norm_epsilon", latent.normEpsilon)
        entries.append(("\(prefix).attention.split_query_latent", .bool(latent.splitsQueryLatent)))
    }

    private mutating func writeExperts() {
        guard prefix == "deepseek2" else { return }
        guard let experts = configuration.experts else {
            set("leading_dense_block_count", configuration.layerCount)
            return
        }
        set("leading_dense_block_count", experts.denseLayers)
        set("expert_count", experts.count)
        set("expert_used_count", experts.expertsPerToken)
        set("expert_feed_forward_length", experts.width)
        set("expert_shared_count", experts.sharedWidth / experts.width)
        set("expert_weights_scale", experts.weightScale)
        entries.append(("\(prefix).expert_weights_norm", .bool(experts.normalisesWeights)))
        set("expert_gating_func", experts.scoring == .sigmoid ? 2 : 1)
        switch experts.selection {
        case .greedy: break
        case .groupLimited(let groups, let kept), .corrected(let groups, let kept):
            set("expert_group_count", groups)
            set("expert_group_used_count", kept)
        }
    }

    private mutating func writeRotary() {
        let rotary = configuration.rotary
        set("rope.dimension_count", rotary.width)
        set("rope.freq_base", rotary.theta)
        func type(_ name: String) -> (String, GGUFValue) { ("\(prefix).rope.scaling.type", .string(name)) }
        switch rotary.scaling {
        case .none, .perFrequency, .llama3: break
        case .linear(let factor):
            entries.append(type("linear"))
            set("rope.scaling.factor", factor)
        case .yarn(let factor, let betaFast, let betaSlow, let original, let attentionFactor):
            entries.append(type("yarn"))
            set("rope.scaling.factor", factor)
            set("rope.scaling.yarn_beta_fast", betaFast)
            set("rope.scaling.yarn_beta_slow", betaSlow)
            set("rope.scaling.original_context_length", original)
            let derived = configuration.architecture.isDeepSeekLike ? 1 : yarnAttentionFactor(factor)
            if attentionFactor != derived { set("rope.scaling.attn_factor", attentionFactor / derived) }
            if configuration.attentionScaleFactor != 1, factor > 1 {
                set(
                    "rope.scaling.yarn_log_multiplier",
                    (configuration.attentionScaleFactor.squareRoot() - 1) / log(factor))
            }
        case .longRope(_, _, let original, let attentionFactor):
            entries.append(type("longrope"))
            set("rope.scaling.original_context_length", original)
            set("rope.scaling.attn_factor", attentionFactor)
        }
    }

    private mutating func writeTokens() {
        func id(_ name: String, _ value: Int?) {
            if let value { entries.append(("tokenizer.ggml.\(name)_token_id", .uint32(UInt32(clamping: value)))) }
        }
        id("bos", configuration.bosToken)
        for (name, token) in zip(["eos", "eot", "eom"], configuration.eosTokens) { id(name, token) }
        id("padding", configuration.padToken)
    }

    /// Rotary divisors that GGUF keeps as tensors.
    static func rotaryTensors(_ configuration: DecoderConfiguration) -> [(name: String, values: [Float])] {
        let rotary = configuration.rotary
        switch rotary.scaling {
        case .perFrequency(let factors): return [("rope_freqs.weight", factors)]
        case .longRope(let short, let long, _, _):
            return [("rope_factors_long.weight", long), ("rope_factors_short.weight", short)]
        case .llama3:
            let plain = RotaryConfiguration(width: rotary.width, theta: rotary.theta).embedding.inverseFrequencies
            let factors = zip(plain, rotary.embedding.inverseFrequencies).map { Float($0 / $1) }
            return [("rope_freqs.weight", factors)]
        case .none, .linear, .yarn: return []
        }
    }
}
