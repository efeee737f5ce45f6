import ApusAttention
import ApusTensor
import ApusText

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Reads the parts of a Hugging Face `config.json` whose spelling or default depends on family or age.
struct JSONConfigurationReader {
    let architecture: DecoderConfiguration.Architecture
    let node: JSONNode
    let file: String
    private let modelClass: String?

    init(_ node: JSONNode, file: String) throws {
        self.node = node
        self.file = file
        modelClass = try node.optional("architectures")?.elements().first?.string()
        let type = try node.optional("model_type")?.string()
        let named = type.map { type in DecoderConfiguration.Architecture.allCases.first { $0.rawValue == type } }
        guard let found = named ?? modelClass.flatMap(Self.architecture(modelClass:)) else {
            let supported = DecoderConfiguration.Architecture.allCases.map(\.rawValue).joined(separator: ", ")
            guard let name = type ?? modelClass else { throw ModelFileError.missingKey(file: file, key: "model_type") }
            throw ModelFileError.unsupported(
                file: file, what: "architecture", found: name.abbreviated(), supported: supported)
        }
        architecture = found
        if let method = try node.optional("quantization_config") {
            throw ModelFileError.unsupported(
                file: file, what: "quantization_config",
                found: method.value["quant_method"]?.stringValue?.abbreviated() ?? "of an unnamed kind",
                supported: "safetensors without it, or GGUF")
        }
    }

    private static func architecture(modelClass: String) -> DecoderConfiguration.Architecture? {
        DecoderConfiguration.Architecture.allCases.first { modelClass.hasPrefix(classPrefix($0) + "For") }
    }

    static func classPrefix(_ architecture: DecoderConfiguration.Architecture) -> String {
        switch architecture {
        case .llama: "Llama"
        case .mistral: "Mistral"
        case .qwen2: "Qwen2"
        case .qwen3: "Qwen3"
        case .gptNeoX: "GPTNeoX"
        case .deepseekV2: "DeepseekV2"
        case .deepseekV3: "DeepseekV3"
        case .miniCPM3: "MiniCPM3"
        }
    }

    func malformed(_ key: String, _ expected: String, _ found: String) -> ModelFileError {
        .malformed(file: file, place: key, expected: expected, found: found)
    }

    func unsupported(_ key: String, _ found: String, _ supported: String) -> ModelFileError {
        .unsupported(file: file, what: key, found: found.abbreviated(), supported: supported)
    }

    func size(_ key: String, _ maximum: Int) throws -> Int {
        try node.child(key, expected: "an integer").int(in: 1...maximum)
    }

    var defaultMaxPositions: Int {
        switch architecture {
        case .llama, .gptNeoX, .deepseekV2: 2048
        case .deepseekV3: 4096
        case .miniCPM3: 32768
        case .mistral: 131072
        case .qwen2, .qwen3: 32768
        }
    }

    func headWidth(hidden: Int, queryHeads: Int) throws -> Int {
        if architecture.isDeepSeekLike {
            return try node.int("qk_nope_head_dim", default: architecture == .miniCPM3 ? 64 : 128)
        }
        if architecture != .gptNeoX, let width = try node.optional("head_dim") {
            let width = try width.int(in: 1...DecoderConfiguration.maximumWidth)
            // The authors' GTA code leaves the RoPE width here, which no head of theirs can have.
            let rope = try architecture == .llama ? node.optional("rope_dim")?.int() : nil
            if width != rope { return width }
        }
        if architecture == .qwen3 { return 128 }
        guard hidden % queryHeads == 0 else {
            throw malformed("num_attention_heads", "a divisor of hidden_size \(hidden)", "\(queryHeads)")
        }
        return hidden / queryHeads
    }

    func head() throws -> DecoderConfiguration.Head {
        guard let modelClass else { return .languageModel }
        let prefix = Self.classPrefix(architecture)
        switch modelClass {
        case prefix + "ForCausalLM", prefix + "Model": return .languageModel
        case prefix + "ForSequenceClassification":
            if let labels = try node.optional("num_labels") {
                return .score(labels: try labels.int(in: 1...DecoderConfiguration.maximumWidth))
            }
            return .score(labels: try node.optional("id2label")?.object().count ?? 2)
        default:
            throw unsupported(
                "architectures", modelClass, "\(prefix)ForCausalLM, \(prefix)ForSequenceClassification")
        }
    }

    func activation() throws -> DecoderConfiguration.Activation {
        let name = try node.string("hidden_act", default: architecture == .gptNeoX ? "gelu" : "silu")
        switch name {
        case "silu", "swish": return .silu
        case "gelu": return .gelu
        case "gelu_new", "gelu_pytorch_tanh", "gelu_fast": return .geluTanh
        default: throw unsupported("hidden_act", name, "silu, swish, gelu, gelu_new, gelu_pytorch_tanh, gelu_fast")
        }
    }

    func weightDType() throws -> DType? {
        guard let name = try Self.first("dtype", "torch_dtype", in: [node])?.string() else { return nil }
        switch name {
        case "float64": return .f64
        case "float32": return .f32
        case "float16": return .f16
        case "bfloat16": return .bf16
        default: return nil
        }
    }

    /// The window of each layer. Mistral has one for all layers, Qwen for those that `layer_types` marks or, without
    /// it, from `max_window_layers` on; transformers ignores the keys in the other families.
    func windows(layers: Int) throws -> [Int?] {
        let range = 1...DecoderConfiguration.maximumPositions
        switch architecture {
        case .llama, .gptNeoX, .deepseekV2, .deepseekV3, .miniCPM3: return Array(repeating: nil, count: layers)
        case .mistral:
            guard node.value["sliding_window"] != nil else { return Array(repeating: 4096, count: layers) }
            let window = try node.optional("sliding_window")?.int(in: range)
            return Array(repeating: window, count: layers)
        case .qwen2, .qwen3:
            guard try node.bool("use_sliding_window", default: false), node.value["sliding_window"]?.isNull != true
            else { return Array(repeating: nil, count: layers) }
            let window = try node.optional("sliding_window")?.int(in: range) ?? 4096
            guard let types = try node.optional("layer_types")?.elements() else {
                let first = try node.int("max_window_layers", default: 28)
                return (0..<layers).map { $0 >= first ? window : nil }
            }
            guard types.count == layers else {
                throw malformed("layer_types", "one per layer (\(layers))", "\(types.count)")
            }
            return try types.map { type in
                switch try type.string() {
                case "full_attention": nil
                case "sliding_attention": window
                case let other: throw unsupported("layer_types", other, "full_attention, sliding_attention")
                }
            }
        }
    }

    /// The rotary embedding of all layers, or of those without and with a window where the file tells them apart.
    func rotaries(headWidth: Int, attention: AttentionConfiguration, maxPositions: Int) throws -> (
        RotaryConfiguration, RotaryConfiguration?
    ) {
        let parameters = try Self.first("rope_parameters", "rope_scaling", in: [node])
        func read(_ parameters: JSONNode?) throws -> RotaryConfiguration {
            try rotary(parameters, headWidth: headWidth, attention: attention, maxPositions: maxPositions)
        }
        guard let parameters, try Self.first("full_attention", "sliding_attention", in: [parameters]) != nil else {
            return (try read(parameters), nil)
        }
        let full = try parameters.optional("full_attention").map(read)
        let sliding = try parameters.optional("sliding_attention").map(read)
        guard let full else { return (try sliding ?? read(nil), nil) }
        return (full, sliding == full ? nil : sliding)
    }

    private func rotary(
        _ parameters: JSONNode?, headWidth: Int, attention: AttentionConfiguration, maxPositions: Int
    ) throws -> RotaryConfiguration {
        let nodes = [parameters, node].compactMap(\.self)
        let theta = try Self.first("rope_theta", "rotary_emb_base", in: nodes)?.double() ?? 10000
        let share =
            try Self.first("partial_rotary_factor", "rotary_pct", in: nodes)?.double()
            ?? (architecture == .gptNeoX ? 0.25 : 1)
        guard share > 0, share <= 1 else { throw malformed("partial_rotary_factor", "above 0, at most 1", "\(share)") }
        let width =
            switch attention {
            case .grouped: Int(Double(headWidth) * share)
            case .tied(let rotaryWidth): rotaryWidth
            case .latent(let latent): latent.rotaryWidth
            }
        var interleaved = architecture == .deepseekV2
        if architecture == .deepseekV3 { interleaved = try node.bool("rope_interleave", default: true) }
        return RotaryConfiguration(
            width: width, theta: theta,
            scaling: try parameters.map { try scaling($0, maxPositions: maxPositions) } ?? .none,
            style: interleaved ? .interleaved : .halfSplit)
    }

    /// The value under the first of `keys` that one of `nodes` has, the earlier nodes first.
    static func first(_ keys: String..., in nodes: [JSONNode]) throws -> JSONNode? {
        for node in nodes {
            for key in keys {
                if let found = try node.optional(key) { return found }
            }
        }
        return nil
    }

    private func scaling(_ node: JSONNode, maxPositions: Int) throws -> RotaryScaling {
        let type = try Self.first("rope_type", "type", in: [node])?.string() ?? "default"
        func original() throws -> Int {
            let value = try Self.first("original_max_position_embeddings", in: [node, self.node])
            return try value?.int(in: 1...DecoderConfiguration.maximumPositions) ?? maxPositions
        }
        switch type {
        case "default": return .none
        case "linear": return .linear(factor: try node.double("factor"))
        case "llama3":
            return .llama3(
                factor: try node.double("factor"), lowFrequencyFactor: try node.double("low_freq_factor"),
                highFrequencyFactor: try node.double("high_freq_factor"), originalContext: try original())
        case "yarn":
            guard try node.bool("truncate", default: true) else {
                throw unsupported("truncate of YaRN", "false", "true")
            }
            let factor = try scalingFactor(node, original: try original(), maxPositions: maxPositions)
            return .yarn(
                factor: factor, betaFast: try node.double("beta_fast", default: 32),
                betaSlow: try node.double("beta_slow", default: 1), originalContext: try original(),
                attentionFactor: try attentionFactor(node, factor: factor))
        case "longrope":
            let context = try original()
            let factor = try scalingFactor(node, original: context, maxPositions: maxPositions)
            let derived = factor <= 1 ? 1 : (1 + log(factor) / log(Double(context))).squareRoot()
            return .longRope(
                short: try node.child("short_factor").elements().map { Float(try $0.double()) },
                long: try node.child("long_factor").elements().map { Float(try $0.double()) },
                originalContext: context, attentionFactor: try node.optional("attention_factor")?.double() ?? derived)
        default:
            throw unsupported("rope_type", type, "default, linear, llama3, yarn, longrope")
        }
    }

    /// The stretch that YaRN and LongRoPE derive their factor on cosine and sine from: stated, or the ratio of contexts.
    private func scalingFactor(_ node: JSONNode, original: Int, maxPositions: Int) throws -> Double {
        try node.optional("factor")?.double() ?? Double(maxPositions) / Double(original)
    }

    /// DeepSeek's factor on the scores: the square of YaRN's, over all dimensions, where `mscale_all_dim` asks for it.
    func attentionScaleFactor(maxPositions: Int) throws -> Double {
        guard architecture.isDeepSeekLike,
            let parameters = try Self.first("rope_parameters", "rope_scaling", in: [node]),
            try Self.first("rope_type", "type", in: [parameters])?.string() ?? "default" != "default",
            let all = try parameters.optional("mscale_all_dim")?.double(), all != 0
        else { return 1 }
        let original = try Self.first("original_max_position_embeddings", in: [parameters, node])?.int(
            in: 1...DecoderConfiguration.maximumPositions)
        let factor = try scalingFactor(parameters, original: original ?? maxPositions, maxPositions: maxPositions)
        let scale = yarnAttentionFactor(factor, multiplier: all)
        return scale * scale
    }

    /// YaRN's factor on cosine and sine: stated, or derived as transformers does from `mscale` and `mscale_all_dim`.
    private func attentionFactor(_ node: JSONNode, factor: Double) throws -> Double {
        if let stated = try node.optional("attention_factor") { return try stated.double() }
        if let scale = try node.optional("mscale")?.double(), let all = try node.optional("mscale_all_dim")?.double(),
            scale != 0, all != 0
        {
            return yarnAttentionFactor(factor, multiplier: scale) / yarnAttentionFactor(factor, multiplier: all)
        }
        return yarnAttentionFactor(factor)
    }
}

/// YaRN's default factor on cosine and sine (Peng et al. 2023, section 3.4): 0.1 ln(scale) + 1, and 1 up to scale 1.
func yarnAttentionFactor(_ scale: Double, multiplier: Double = 1) -> Double {
    scale <= 1 ? 1 : 0.1 * multiplier * log(scale) + 1
}
