import ApusAttention
import ApusTensor
import ApusText

extension DecoderConfiguration {
    /// The configuration as a Hugging Face `config.json`, in the older spelling, which transformers of every age reads;
    /// ``init(json:file:)`` reads it back. Token ids and `weightDType` are written where they are known.
    ///
    /// A GTA or GLA model is written as the authors' released files are: `llama` with `rope_dim` or `qk_rope_dim`.
    public var huggingFaceJSON: JSONValue {
        var object = JSONObject([
            ("architectures", .array([.string(className)])), ("model_type", .string(architecture.rawValue)),
            ("vocab_size", .int(vocabularySize)), ("hidden_size", .int(hiddenSize)),
            ("num_hidden_layers", .int(layerCount)), ("num_attention_heads", .int(queryHeads)),
            ("intermediate_size", .int(feedForwardWidth)), ("max_position_embeddings", .int(maxPositions)),
            ("hidden_act", .string(activation.transformersName)), ("tie_word_embeddings", .bool(tiesEmbeddings)),
            ("attention_bias", .bool(architecture == .qwen2 || attentionBias || attentionOutputBias)),
            ("initializer_range", .double(0.02)), ("use_cache", .bool(true)),
        ])
        if architecture != .gptNeoX { object["num_key_value_heads"] = .int(kvHeads) }
        writeFamily(&object)
        writeAttention(&object)
        writeExperts(&object)
        writeRotary(&object)
        writeWindows(&object)
        if case .score(let labels) = head {
            object["num_labels"] = .int(labels)
            object["id2label"] = .object(JSONObject((0..<labels).map { ("\($0)", .string("LABEL_\($0)")) }))
        }
        if let bosToken { object["bos_token_id"] = .int(bosToken) }
        if eosTokens.count == 1 { object["eos_token_id"] = .int(eosTokens[0]) }
        if eosTokens.count > 1 { object["eos_token_id"] = .array(eosTokens.map { .int($0) }) }
        if let padToken { object["pad_token_id"] = .int(padToken) }
        if let name = weightDType?.transformersName { object["torch_dtype"] = .string(name) }
        return .object(object)
    }

    /// Throws ``ModelFileError/unsupported(file:what:found:supported:)`` where ``huggingFaceJSON`` would read back as a model with
    /// other weights, attention or rotation: `config.json` has one word for all biases of a Llama's attention, for instance.
    func requireHuggingFaceForm(in file: String) throws {
        let read = try DecoderConfiguration(json: JSONNode(huggingFaceJSON, name: file), file: file)
        func refuse(_ what: String, _ found: some Any, _ supported: some Any) -> ModelFileError {
            .unsupported(file: file, what: "for safetensors: \(what)", found: "\(found)", supported: "\(supported)")
        }
        guard attentionBias == read.attentionBias, attentionOutputBias == read.attentionOutputBias else {
            throw refuse(
                "\(architecture.rawValue) with attention biases",
                attentionBias ? "on queries, keys and values only" : "on the output projection only",
                "none, or on all four projections")
        }
        var attention = attention
        // GGUF's numbers are rounded to float32.
        if case .latent(var latent) = attention, case .latent(let other) = read.attention,
            abs(latent.normEpsilon - other.normEpsilon) <= 1e-6 * other.normEpsilon
        {
            latent.normEpsilon = other.normEpsilon
            attention = .latent(latent)
        }
        guard attention == read.attention else { throw refuse("attention", attention, read.attention) }
        guard rotary.style == read.rotary.style else {
            throw refuse("pairs of rotary embedding", rotary.style, read.rotary.style)
        }
        let (names, shapes) = (tensorRoles, tensorRoles.map { shape(of: $0) })
        guard names == read.tensorRoles, shapes == names.map({ read.shape(of: $0) }) else {
            throw refuse("weights", "\(names.count) tensors", "\(read.tensorRoles.count) of these shapes")
        }
    }

    private var className: String {
        let prefix = JSONConfigurationReader.classPrefix(architecture)
        if case .score = head { return prefix + "ForSequenceClassification" }
        return prefix + "ForCausalLM"
    }

    private func writeFamily(_ object: inout JSONObject) {
        if architecture == .gptNeoX {
            object["layer_norm_eps"] = .shortest(normEpsilon)
            object["use_parallel_residual"] = .bool(parallelResidual)
            return
        }
        object["rms_norm_eps"] = .shortest(normEpsilon)
        if architecture != .deepseekV3 { object["mlp_bias"] = .bool(feedForwardBias) }
        if architecture == .miniCPM3 {
            object["scale_emb"] = .number(embeddingScale)
            object["scale_depth"] = .double(residualScale * Double(layerCount).squareRoot())
            object["dim_model_base"] = .number(logitScale * Double(hiddenSize))
        }
    }

    private func writeAttention(_ object: inout JSONObject) {
        switch attention {
        case .grouped: if architecture != .gptNeoX { object["head_dim"] = .int(headWidth) }
        case .tied(let rotaryWidth):
            object["head_dim"] = .int(headWidth)
            object["rope_dim"] = .int(rotaryWidth)
        case .latent(let latent) where architecture.isDeepSeekLike:
            object["kv_lora_rank"] = .int(latent.latentWidth)
            object["q_lora_rank"] = latent.queryRank.map { .int($0) } ?? .null
            object["qk_nope_head_dim"] = .int(latent.contentWidth)
            object["qk_rope_head_dim"] = .int(latent.rotaryWidth)
            object["v_head_dim"] = .int(latent.valueWidth)
            object["attention_bias"] = .bool(latent.hasDownBias)
        case .latent(let latent):
            object["head_dim"] = .int(headWidth)
            object["qk_rope_dim"] = .int(latent.rotaryWidth)
            object["num_latent_heads"] = .int(latent.latentHeads)
            object["kv_latent_dim"] = .int(latent.latentWidth)
            object["q_latent_dim"] = latent.queryRank.map { .int($0) } ?? .null
            object["split_q_latent"] = .bool(latent.splitsQueryLatent)
            object["latent_bias"] = .bool(latent.hasDownBias)
        }
    }

    private func writeExperts(_ object: inout JSONObject) {
        guard architecture == .deepseekV2 || architecture == .deepseekV3 else { return }
        guard let experts else {
            object["first_k_dense_replace"] = .int(layerCount)
            object["num_experts_per_tok"] = .int(1)
            return
        }
        object["first_k_dense_replace"] = .int(experts.denseLayers)
        object["n_routed_experts"] = .int(experts.count)
        object["num_experts_per_tok"] = .int(experts.expertsPerToken)
        object["moe_intermediate_size"] = .int(experts.width)
        object["n_shared_experts"] = .int(experts.sharedWidth / experts.width)
        object["norm_topk_prob"] = .bool(experts.normalisesWeights)
        object["routed_scaling_factor"] = .double(experts.weightScale)
        object["scoring_func"] = .string(experts.scoring.rawValue)
        switch experts.selection {
        case .greedy: object["topk_method"] = .string("greedy")
        case .groupLimited(let groups, let kept):
            object["topk_method"] = .string("group_limited_greedy")
            object["n_group"] = .int(groups)
            object["topk_group"] = .int(kept)
        case .corrected(let groups, let kept):
            object["topk_method"] = .string("noaux_tc")
            object["n_group"] = .int(groups)
            object["topk_group"] = .int(kept)
        }
    }

    private func writeRotary(_ object: inout JSONObject) {
        object["rope_theta"] = .double(rotary.theta)
        if architecture == .gptNeoX {
            object["rotary_emb_base"] = .double(rotary.theta)
            object["rotary_pct"] = .double(Double(rotary.width) / Double(headWidth))
        } else if attention == .grouped, rotary.width != headWidth {
            object["partial_rotary_factor"] = .double(Double(rotary.width) / Double(headWidth))
        }
        if architecture == .deepseekV3 { object["rope_interleave"] = .bool(rotary.style == .interleaved) }
        if let slidingRotary {
            object["rope_parameters"] = .object(
                JSONObject([
                    ("full_attention", .object(parameters(rotary, withTheta: true))),
                    ("sliding_attention", .object(parameters(slidingRotary, withTheta: true))),
                ]))
        } else {
            object["rope_scaling"] = rotary.scaling == .none ? .null : .object(parameters(rotary, withTheta: false))
        }
    }

    private func parameters(_ rotary: RotaryConfiguration, withTheta: Bool) -> JSONObject {
        var object = JSONObject()
        if withTheta { object["rope_theta"] = .double(rotary.theta) }
        func set(_ type: String, _ members: (String, JSONValue)...) {
            object["rope_type"] = .string(type)
            for (key, value) in members { object[key] = value }
        }
        switch rotary.scaling {
        case .none: set("default")
        case .linear(let factor): set("linear", ("factor", .double(factor)))
        case .llama3(let factor, let low, let high, let original):
            set(
                "llama3", ("factor", .double(factor)), ("low_freq_factor", .double(low)),
                ("high_freq_factor", .double(high)), ("original_max_position_embeddings", .int(original)))
        case .yarn(let factor, let betaFast, let betaSlow, let original, let attentionFactor):
            set(
                "yarn", ("factor", .double(factor)), ("beta_fast", .double(betaFast)), ("beta_slow", .double(betaSlow)),
                ("original_max_position_embeddings", .int(original)), ("attention_factor", .double(attentionFactor)))
            // The factor on the scores is (0.1 m ln(factor) + 1)^2 of this m.
            if attentionScaleFactor != 1 {
                object["mscale_all_dim"] = .double(
                    (attentionScaleFactor.squareRoot() - 1) / yarnAttentionFactor(factor).excess)
            }
        case .perFrequency(let factors):
            // The same divisors for all lengths; the original context only has to be a length.
            set(
                "longrope", ("short_factor", .numbers(factors)), ("long_factor", .numbers(factors)),
                ("factor", .double(1)), ("original_max_position_embeddings", .int(maxPositions)),
                ("attention_factor", .double(1)))
        case .longRope(let short, let long, let original, let attentionFactor):
            set(
                "longrope", ("short_factor", .numbers(short)), ("long_factor", .numbers(long)),
                ("factor", .double(max(Double(maxPositions) / Double(original), 1))),
                ("original_max_position_embeddings", .int(original)), ("attention_factor", .double(attentionFactor)))
        }
        return object
    }

    private func writeWindows(_ object: inout JSONObject) {
        let window = windows.lazy.compactMap(\.self).first
        switch architecture {
        case .mistral: object["sliding_window"] = window.map { .int($0) } ?? .null
        case .qwen2, .qwen3:
            object["use_sliding_window"] = .bool(window != nil)
            object["sliding_window"] = window.map { .int($0) } ?? .null
            object["max_window_layers"] = .int(windows.firstIndex { $0 != nil } ?? layerCount)
            object["layer_types"] = .array(
                windows.map { .string($0 == nil ? "full_attention" : "sliding_attention") })
        case .llama, .gptNeoX, .deepseekV2, .deepseekV3, .miniCPM3: break
        }
    }
}

extension Double {
    /// What YaRN's factor adds to one.
    fileprivate var excess: Double { self - 1 }
}

extension JSONValue {
    /// A number that came from 32 bits, as GGUF keeps it, by the decimal it was meant to be.
    fileprivate static func shortest(_ value: Double) -> JSONValue {
        Double(Float(value)) == value ? .double(Double("\(Float(value))") ?? value) : .double(value)
    }

    fileprivate static func int(_ value: Int) -> JSONValue { .integer(Int64(value)) }

    fileprivate static func numbers(_ values: [Float]) -> JSONValue { .array(values.map { .double(Double($0)) }) }

    /// An integer where the number is one within rounding.
    fileprivate static func number(_ value: Double) -> JSONValue {
        let rounded = value.rounded()
        return abs(value - rounded) < 1e-9 * max(abs(value), 1) ? .integer(Int64(rounded)) : .double(value)
    }
}

extension DecoderConfiguration.Activation {
    fileprivate var transformersName: String {
        switch self {
        case .silu: "silu"
        case .gelu: "gelu"
        case .geluTanh: "gelu_pytorch_tanh"
        }
    }
}

extension DType {
    fileprivate var transformersName: String? {
        switch self {
        case .f64: "float64"
        case .f32: "float32"
        case .f16: "float16"
        case .bf16: "bfloat16"
        default: nil
        }
    }
}
