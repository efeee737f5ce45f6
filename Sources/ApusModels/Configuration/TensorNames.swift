/// How a family of files names the decoder's weights.
public enum TensorNames: Sendable, Hashable {
    /// GGUF, the same for all architectures.
    case gguf
    /// Hugging Face's Llama, Mistral, Qwen2, Qwen3, and the released GTA and GLA models; `prefix` is `model.`, or empty for
    /// a base model saved alone.
    case llama(prefix: String)
    /// Hugging Face's DeepSeek-V2, DeepSeek-V3 and MiniCPM3; `prefix` as for Llama.
    case deepSeek(prefix: String)
    /// Hugging Face's GPT-NeoX; `prefix` is `gpt_neox.`, or empty for a base model saved alone.
    case gptNeoX(prefix: String)

    /// The names under which a Hugging Face folder of this model keeps its weights.
    public static func huggingFace(_ configuration: DecoderConfiguration, bare: Bool = false) -> TensorNames {
        let architecture = configuration.architecture
        if architecture == .gptNeoX { return .gptNeoX(prefix: bare ? "" : "gpt_neox.") }
        let prefix = bare ? "" : "model."
        return architecture.isDeepSeekLike ? .deepSeek(prefix: prefix) : .llama(prefix: prefix)
    }

    /// The name of a weight.
    public func name(of role: TensorRole) -> String {
        switch self {
        case .gguf: Self.gguf(role)
        case .llama(let prefix), .deepSeek(let prefix): llama(role, prefix)
        case .gptNeoX(let prefix): Self.gptNeoX(role, prefix)
        }
    }

    /// Which part of the first axis of the named tensor the weight is, where a file stacks several weights in one tensor:
    /// GGUF's routed experts.
    public func slice(of role: TensorRole) -> Int? {
        guard self == .gguf, case .layer(_, let tensor) = role else { return nil }
        return switch tensor {
        case .expertGate(let index), .expertUp(let index), .expertDown(let index): index
        default: nil
        }
    }

    private func llama(_ role: TensorRole, _ prefix: String) -> String {
        switch role {
        case .tokenEmbedding: return prefix + "embed_tokens.weight"
        case .finalNorm: return prefix + "norm.weight"
        case .finalNormBias: return prefix + "norm.bias"
        case .head: return "lm_head.weight"
        case .score: return "score.weight"
        case .layer(let index, let tensor):
            var name = Self.llama(tensor)
            if case .deepSeek = self { name = Self.deepSeek(tensor) ?? name }
            return "\(prefix)layers.\(index).\(name)"
        }
    }

    /// The released GTA and GLA files fix two latent heads, numbered from 1; other counts go on numbering. A split query
    /// latent (GLA_q), which no released file has, is numbered in the same way.
    private static func llama(_ tensor: LayerTensor) -> String {
        switch tensor {
        case .attentionNorm: "input_layernorm.weight"
        case .attentionNormBias: "input_layernorm.bias"
        case .query: "self_attn.q_proj.weight"
        case .key: "self_attn.k_proj.weight"
        case .value: "self_attn.v_proj.weight"
        case .queryBias: "self_attn.q_proj.bias"
        case .keyBias: "self_attn.k_proj.bias"
        case .valueBias: "self_attn.v_proj.bias"
        case .fusedQKV: "self_attn.qkv_proj.weight"
        case .fusedQKVBias: "self_attn.qkv_proj.bias"
        case .queryNorm: "self_attn.q_norm.weight"
        case .keyNorm: "self_attn.k_norm.weight"
        case .output: "self_attn.o_proj.weight"
        case .outputBias: "self_attn.o_proj.bias"
        case .tiedState: "self_attn.kv_proj.weight"
        case .tiedStateBias: "self_attn.kv_proj.bias"
        case .rotaryKey: "self_attn.W_rope_k.weight"
        case .rotaryKeyBias: "self_attn.W_rope_k.bias"
        case .queryDown: "self_attn.W_dQ.weight"
        case .queryDownBias: "self_attn.W_dQ.bias"
        case .queryLatentNorm(let index): "self_attn.q_norm\(numbered(index)).weight"
        case .queryUp(let index): "self_attn.W_uQ_rope\(numbered(index)).weight"
        case .queryUpBias(let index): "self_attn.W_uQ_rope\(numbered(index)).bias"
        case .latentDown: "self_attn.W_dKV.weight"
        case .latentDownBias: "self_attn.W_dKV.bias"
        case .latentNorm(let index): "self_attn.kv_norm_\(index + 1).weight"
        case .latentUp(let index): "self_attn.W_ukv_\(index + 1).weight"
        case .latentUpBias(let index): "self_attn.W_ukv_\(index + 1).bias"
        case .feedForwardNorm: "post_attention_layernorm.weight"
        case .feedForwardNormBias: "post_attention_layernorm.bias"
        case .gate: "mlp.gate_proj.weight"
        case .up: "mlp.up_proj.weight"
        case .down: "mlp.down_proj.weight"
        case .gateBias: "mlp.gate_proj.bias"
        case .upBias: "mlp.up_proj.bias"
        case .downBias: "mlp.down_proj.bias"
        case .router: "mlp.gate.weight"
        case .routerCorrection: "mlp.gate.e_score_correction_bias"
        case .expertGate(let index): "mlp.experts.\(index).gate_proj.weight"
        case .expertUp(let index): "mlp.experts.\(index).up_proj.weight"
        case .expertDown(let index): "mlp.experts.\(index).down_proj.weight"
        case .sharedGate: "mlp.shared_experts.gate_proj.weight"
        case .sharedUp: "mlp.shared_experts.up_proj.weight"
        case .sharedDown: "mlp.shared_experts.down_proj.weight"
        }
    }

    /// The first query latent, which is the only one unless they are split, has no number.
    private static func numbered(_ index: Int) -> String { index == 0 ? "" : "_\(index + 1)" }

    /// DeepSeek's names where they differ from Llama's.
    private static func deepSeek(_ tensor: LayerTensor) -> String? {
        switch tensor {
        case .queryDown: "self_attn.q_a_proj.weight"
        case .queryDownBias: "self_attn.q_a_proj.bias"
        case .queryLatentNorm: "self_attn.q_a_layernorm.weight"
        case .queryUp: "self_attn.q_b_proj.weight"
        case .queryUpBias: "self_attn.q_b_proj.bias"
        case .latentDown: "self_attn.kv_a_proj_with_mqa.weight"
        case .latentDownBias: "self_attn.kv_a_proj_with_mqa.bias"
        case .latentNorm: "self_attn.kv_a_layernorm.weight"
        case .latentUp: "self_attn.kv_b_proj.weight"
        case .latentUpBias: "self_attn.kv_b_proj.bias"
        default: nil
        }
    }

    private static func gptNeoX(_ role: TensorRole, _ prefix: String) -> String {
        switch role {
        case .tokenEmbedding: prefix + "embed_in.weight"
        case .finalNorm: prefix + "final_layer_norm.weight"
        case .finalNormBias: prefix + "final_layer_norm.bias"
        case .head: "embed_out.weight"
        case .score: "score.weight"
        case .layer(let index, let tensor):
            "\(prefix)layers.\(index)." + gptNeoX(tensor)
        }
    }

    private static func gptNeoX(_ tensor: LayerTensor) -> String {
        switch tensor {
        case .attentionNorm: "input_layernorm.weight"
        case .attentionNormBias: "input_layernorm.bias"
        case .fusedQKV: "attention.query_key_value.weight"
        case .fusedQKVBias: "attention.query_key_value.bias"
        case .output: "attention.dense.weight"
        case .outputBias: "attention.dense.bias"
        case .feedForwardNorm: "post_attention_layernorm.weight"
        case .feedForwardNormBias: "post_attention_layernorm.bias"
        case .up: "mlp.dense_h_to_4h.weight"
        case .upBias: "mlp.dense_h_to_4h.bias"
        case .down: "mlp.dense_4h_to_h.weight"
        case .downBias: "mlp.dense_4h_to_h.bias"
        default:
            // The family has no such weight; the name only ever appears in an error.
            "\(tensor)"
        }
    }
}
