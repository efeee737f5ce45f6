/// How a family of files names the decoder's weights.
public enum TensorNames: Sendable, Hashable {
    /// GGUF, the same for all architectures.
    case gguf
    /// Hugging Face's Llama, Mistral, Qwen2, Qwen3; `prefix` is `model.`, or empty for a base model saved alone.
    case llama(prefix: String)
    /// Hugging Face's GPT-NeoX; `prefix` is `gpt_neox.`, or empty for a base model saved alone.
    case gptNeoX(prefix: String)

    /// The name of a weight.
    public func name(of role: TensorRole) -> String {
        switch self {
        case .gguf: Self.gguf(role)
        case .llama(let prefix): Self.llama(role, prefix)
        case .gptNeoX(let prefix): Self.gptNeoX(role, prefix)
        }
    }

    private static func gguf(_ role: TensorRole) -> String {
        switch role {
        case .tokenEmbedding: "token_embd.weight"
        case .finalNorm: "output_norm.weight"
        case .finalNormBias: "output_norm.bias"
        case .head: "output.weight"
        case .score: "cls.output.weight"
        case .layer(let index, let tensor):
            "blk.\(index)." + gguf(tensor)
        }
    }

    private static func gguf(_ tensor: LayerTensor) -> String {
        switch tensor {
        case .attentionNorm: "attn_norm.weight"
        case .attentionNormBias: "attn_norm.bias"
        case .query: "attn_q.weight"
        case .key: "attn_k.weight"
        case .value: "attn_v.weight"
        case .queryBias: "attn_q.bias"
        case .keyBias: "attn_k.bias"
        case .valueBias: "attn_v.bias"
        case .fusedQKV: "attn_qkv.weight"
        case .fusedQKVBias: "attn_qkv.bias"
        case .queryNorm: "attn_q_norm.weight"
        case .keyNorm: "attn_k_norm.weight"
        case .output: "attn_output.weight"
        case .outputBias: "attn_output.bias"
        case .feedForwardNorm: "ffn_norm.weight"
        case .feedForwardNormBias: "ffn_norm.bias"
        case .gate: "ffn_gate.weight"
        case .up: "ffn_up.weight"
        case .down: "ffn_down.weight"
        case .gateBias: "ffn_gate.bias"
        case .upBias: "ffn_up.bias"
        case .downBias: "ffn_down.bias"
        }
    }

    private static func llama(_ role: TensorRole, _ prefix: String) -> String {
        switch role {
        case .tokenEmbedding: prefix + "embed_tokens.weight"
        case .finalNorm: prefix + "norm.weight"
        case .finalNormBias: prefix + "norm.bias"
        case .head: "lm_head.weight"
        case .score: "score.weight"
        case .layer(let index, let tensor):
            "\(prefix)layers.\(index)." + llama(tensor)
        }
    }

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
        case .feedForwardNorm: "post_attention_layernorm.weight"
        case .feedForwardNormBias: "post_attention_layernorm.bias"
        case .gate: "mlp.gate_proj.weight"
        case .up: "mlp.up_proj.weight"
        case .down: "mlp.down_proj.weight"
        case .gateBias: "mlp.gate_proj.bias"
        case .upBias: "mlp.up_proj.bias"
        case .downBias: "mlp.down_proj.bias"
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
        case .query, .key, .value, .queryBias, .keyBias, .valueBias, .queryNorm, .keyNorm, .gate, .gateBias:
            // The family has no such weight; the name only ever appears in an error.
            tensor.rawValue
        }
    }
}
