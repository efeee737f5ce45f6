extension TensorNames {
    /// GGUF's names: those of the specification and of llama.cpp's `deepseek2`; latents are numbered from 0 where there can
    /// be several, which only this project's own architectures have.
    static func gguf(_ role: TensorRole) -> String {
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
        case .tiedState: "attn_tied.weight"
        case .tiedStateBias: "attn_tied.bias"
        case .rotaryKey: "attn_k_rope.weight"
        case .rotaryKeyBias: "attn_k_rope.bias"
        case .queryDown: "attn_q_a.weight"
        case .queryDownBias: "attn_q_a.bias"
        case .queryLatentNorm(let index): "attn_q_a_norm\(numbered(index)).weight"
        case .queryUp(let index): "attn_q_b\(numbered(index)).weight"
        case .queryUpBias(let index): "attn_q_b\(numbered(index)).bias"
        case .latentDown: "attn_kv_a_mqa.weight"
        case .latentDownBias: "attn_kv_a_mqa.bias"
        case .latentNorm(let index): "attn_kv_a_norm\(numbered(index)).weight"
        case .latentUp(let index): "attn_kv_b\(numbered(index)).weight"
        case .latentUpBias(let index): "attn_kv_b\(numbered(index)).bias"
        case .feedForwardNorm: "ffn_norm.weight"
        case .feedForwardNormBias: "ffn_norm.bias"
        case .gate: "ffn_gate.weight"
        case .up: "ffn_up.weight"
        case .down: "ffn_down.weight"
        case .gateBias: "ffn_gate.bias"
        case .upBias: "ffn_up.bias"
        case .downBias: "ffn_down.bias"
        case .router: "ffn_gate_inp.weight"
        case .routerCorrection: "exp_probs_b.bias"
        case .expertGate: "ffn_gate_exps.weight"
        case .expertUp: "ffn_up_exps.weight"
        case .expertDown: "ffn_down_exps.weight"
        case .sharedGate: "ffn_gate_shexp.weight"
        case .sharedUp: "ffn_up_shexp.weight"
        case .sharedDown: "ffn_down_shexp.weight"
        }
    }

    private static func numbered(_ index: Int) -> String { index == 0 ? "" : ".\(index)" }
}
