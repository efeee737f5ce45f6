import ApusAttention
import ApusTensor

extension DecoderConfiguration {
    /// The configuration in a GGUF file's metadata (source: the GGUF specification's standardised keys and llama.cpp's
    /// defaults for absent ones). Presence of bias, head and score tensors is read from the file's tensor list.
    public init(gguf file: GGUFFile) throws {
        let reader = try GGUFConfigurationReader(file)
        let layers = try reader.required("block_count", 1...Self.maximumLayers)
        let hidden = try reader.required("embedding_length", 1...Self.maximumWidth)
        let queryHeads = try reader.required("attention.head_count", 1...Self.maximumWidth)
        let attention = try reader.attention(hidden: hidden, queryHeads: queryHeads)
        let headWidth = try reader.headWidth(attention, hidden: hidden, queryHeads: queryHeads)
        self.init(
            architecture: reader.architecture, vocabularySize: try reader.vocabularySize(), hiddenSize: hidden,
            layerCount: layers, queryHeads: queryHeads,
            kvHeads: try reader.kvHeads(attention, queryHeads: queryHeads), headWidth: headWidth,
            feedForwardWidth: try reader.required("feed_forward_length", 1...(4 * Self.maximumWidth)),
            rotary: try reader.rotary(attention, headWidth: headWidth),
            maxPositions: try reader.integer("context_length") ?? 2048)
        self.attention = attention
        try reader.checkUnused(attention, headWidth: headWidth)
        experts = try reader.experts(layers: layers)
        attentionScaleFactor = try reader.attentionScaleFactor()
        (embeddingScale, residualScale, logitScale) = try reader.scales(layers: layers, hidden: hidden)
        if reader.architecture == .gptNeoX {
            normKind = .layer
            normEpsilon = try reader.number("attention.layer_norm_epsilon") ?? 1e-5
            activation = .gelu
            fusedQKV = .stacked
            parallelResidual = try reader.bool("use_parallel_residual") ?? true
        } else {
            normEpsilon = try reader.number("attention.layer_norm_rms_epsilon") ?? 1e-5
            queryKeyNorm = reader.architecture == .qwen3
        }
        switch attention {
        case .grouped, .tied: attentionBias = reader.has(fusedQKV == nil ? .queryBias : .fusedQKVBias)
        case .latent: break
        }
        attentionOutputBias = reader.has(.outputBias)
        feedForwardBias = reader.has(.upBias)
        if let window = try reader.integer("attention.sliding_window"), window > 0 {
            windows = Array(repeating: window, count: layers)
        }
        if let labels = file.info(TensorNames.gguf.name(of: .score))?.extents.first {
            head = .score(labels: labels)
        }
        tiesEmbeddings = file.info(TensorNames.gguf.name(of: .head)) == nil
        bosToken = try file.metadata.integer("tokenizer.ggml.bos_token_id")
        padToken = try file.metadata.integer("tokenizer.ggml.padding_token_id")
        for name in ["eos", "eot", "eom"] {
            if let token = try file.metadata.integer("tokenizer.ggml.\(name)_token_id"), !eosTokens.contains(token) {
                eosTokens.append(token)
            }
        }
        weightDType = file.info(TensorNames.gguf.name(of: .layer(0, .output)))?.type.dtype
        try validate(source: file.file.name)
        dropForeignTokens()
    }
}
