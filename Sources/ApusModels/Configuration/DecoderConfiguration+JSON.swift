import ApusAttention
import ApusTensor
import ApusText

extension DecoderConfiguration {
    /// The configuration in a file with a Hugging Face `config.json`; see ``init(json:file:)``.
    public init(json file: MappedFile) throws {
        try self.init(json: try file.json(), file: file.name)
    }

    /// The configuration in a Hugging Face `config.json`; see ``init(json:file:headWidth:)``.
    public init(json node: JSONNode, file: String) throws { try self.init(json: node, file: file, headWidth: nil) }

    /// The configuration in a Hugging Face `config.json`, in its older spelling (`rope_theta`, `rope_scaling`,
    /// `torch_dtype`) or the newer (`rope_parameters`, `dtype`). Absent keys stand at transformers' defaults for the
    /// family, those that give the model's size are required. `file` names the file in errors; `headWidth` overrides what
    /// it says of the head's width.
    ///
    /// Of `llama`, the keys `rope_dim` and `qk_rope_dim` make a GTA or a GLA model, as in the authors' released modelling
    /// files.
    init(json node: JSONNode, file: String, headWidth known: Int?) throws {
        let reader = try JSONConfigurationReader(node, file: file)
        let hidden = try reader.size("hidden_size", Self.maximumWidth)
        let queryHeads = try reader.size("num_attention_heads", Self.maximumWidth)
        let layers = try reader.size("num_hidden_layers", Self.maximumLayers)
        let architecture = reader.architecture
        let headWidth = try known ?? reader.headWidth(hidden: hidden, queryHeads: queryHeads)
        let attention = try reader.attention(headWidth: headWidth, hidden: hidden, queryHeads: queryHeads)
        let maxPositions = try node.int("max_position_embeddings", default: reader.defaultMaxPositions)
        let (rotary, slidingRotary) = try reader.rotaries(
            headWidth: headWidth, attention: attention, maxPositions: maxPositions)
        self.init(
            architecture: architecture, vocabularySize: try reader.size("vocab_size", Int(Int32.max)),
            hiddenSize: hidden, layerCount: layers, queryHeads: queryHeads,
            kvHeads: try reader.kvHeads(queryHeads: queryHeads),
            headWidth: headWidth, feedForwardWidth: try reader.size("intermediate_size", 4 * Self.maximumWidth),
            rotary: rotary, maxPositions: maxPositions)
        self.attention = attention
        attentionScaleFactor = try reader.attentionScaleFactor(maxPositions: maxPositions)
        experts = try reader.experts(layers: layers)
        self.slidingRotary = slidingRotary
        head = try reader.head()
        activation = try reader.activation()
        try setFamily(node)
        windows = try reader.windows(layers: layers)
        tiesEmbeddings = try node.bool("tie_word_embeddings", default: architecture == .miniCPM3)
        bosToken = try node.tokens("bos_token_id").first
        eosTokens = try node.tokens("eos_token_id")
        padToken = try node.tokens("pad_token_id").first
        weightDType = try reader.weightDType()
        try validate(source: file)
        dropForeignTokens()
    }

    private mutating func setFamily(_ node: JSONNode) throws {
        switch architecture {
        case .llama:
            attentionBias = try node.bool("attention_bias", default: false)
            attentionOutputBias = attentionBias
            feedForwardBias = try node.bool("mlp_bias", default: false)
        case .mistral: break
        case .qwen2: attentionBias = true
        case .qwen3:
            attentionBias = try node.bool("attention_bias", default: false)
            attentionOutputBias = attentionBias
            queryKeyNorm = true
        case .gptNeoX:
            attentionBias = try node.bool("attention_bias", default: true)
            attentionOutputBias = attentionBias
            feedForwardBias = true
            normKind = .layer
            fusedQKV = .perHead
            parallelResidual = try node.bool("use_parallel_residual", default: true)
        case .deepseekV2, .deepseekV3, .miniCPM3:
            attentionOutputBias = try node.bool("attention_bias", default: false)
            if architecture != .deepseekV3 { feedForwardBias = try node.bool("mlp_bias", default: false) }
        }
        if architecture == .miniCPM3 { try setScales(node) }
        normEpsilon =
            architecture == .gptNeoX
            ? try node.double("layer_norm_eps", default: 1e-5)
            : try node.double("rms_norm_eps", default: architecture == .miniCPM3 ? 1e-5 : 1e-6)
    }

    /// MiniCPM's factors on embeddings, residual branches and logits.
    private mutating func setScales(_ node: JSONNode) throws {
        embeddingScale = try node.double("scale_emb", default: 12)
        func optional(_ key: String, default fallback: Double, without none: Double) throws -> Double {
            guard node.value[key]?.isNull != true else { return none }
            return try node.double(key, default: fallback)
        }
        let depth = Double(layerCount).squareRoot()
        residualScale = try optional("scale_depth", default: 1.4, without: depth) / depth
        let width = Double(hiddenSize)
        logitScale = try optional("dim_model_base", default: 256, without: width) / width
    }
}
