import ApusAttention
import ApusModels
import ApusPlanning
import ApusTensor
import ApusText
import ArgumentParser

/// The model of a plan: a file, a known shape, or sizes; options win over what file and shape say.
struct PlanModelOptions: ParsableArguments {
    @Argument(
        help: ArgumentHelp(
            "A GGUF file, a safetensors file beside its config.json, a Hugging Face directory, or its config.json; "
                + "without one, --shape or sizes.")) var model: String?
    @Option(help: ArgumentHelp("A known shape: \(NamedModels.names.joined(separator: ", ")).")) var shape: String?
    @Option(help: "Attention: mha, mqa, gqa, gta, mla or gla; the model's by default.") var variant: AttentionVariant?
    @Option(help: "Query heads.") var queryHeads: Int?
    @Option(help: "KV heads of GQA and GTA.") var kvHeads: Int?
    @Option(help: "Width of a head.") var headWidth: Int?
    @Option(help: "Latent heads of GLA.") var latentHeads: Int?
    @Option(help: "Width of each latent; by default 4 head widths for MLA, 2 for GLA.") var latentWidth: Int?
    @Option(help: "Width of the RoPE key of GTA, MLA and GLA; the model's, or half a head.") var ropeWidth: Int?
    @Option(help: "Layers.") var layers: Int?
    @Option(help: "Width of the residual stream.") var hidden: Int?
    @Option(help: "Width of the feed-forward (of dense layers, where there are experts).") var feedForward: Int?
    @Option(help: "Tokens of the vocabulary.") var vocabulary: Int?
    @Option(help: "Routed experts; 0 for none.") var experts: Int?
    @Option(help: "Routed experts that a token visits.") var expertsPerToken: Int?
    @Option(help: "Width of one routed expert.") var expertWidth: Int?
    @Option(help: "Width of the shared experts together.") var sharedWidth: Int?
    @Option(help: "Leading layers without experts.") var denseLayers: Int?

    func validate() throws {
        for (name, value) in [
            ("query-heads", queryHeads), ("kv-heads", kvHeads), ("head-width", headWidth), ("layers", layers),
            ("latent-heads", latentHeads), ("latent-width", latentWidth), ("rope-width", ropeWidth),
            ("hidden", hidden), ("feed-forward", feedForward), ("vocabulary", vocabulary),
            ("experts-per-token", expertsPerToken), ("expert-width", expertWidth),
        ] {
            if let value, !(1...1 << 24).contains(value) {
                throw ValidationError("--\(name): expected an integer from 1 to 2^24, found \(value)")
            }
        }
        for (name, value) in [("experts", experts), ("shared-width", sharedWidth), ("dense-layers", denseLayers)] {
            if let value, !(0...1 << 24).contains(value) {
                throw ValidationError("--\(name): expected an integer from 0 to 2^24, found \(value)")
            }
        }
        if model != nil, shape != nil { throw ValidationError("expected a model or --shape, found both") }
    }

    /// What the model is called.
    var name: String {
        (model ?? shape).map { $0.split(separator: "/").last.map(String.init) ?? $0 } ?? "a model of these sizes"
    }

    /// The configuration.
    func configuration() throws -> DecoderConfiguration {
        var result: DecoderConfiguration
        if let model {
            result = try Self.configuration(at: model)
        } else if let shape {
            result = try NamedModels.configuration(shape)
        } else {
            result = try sizes()
        }
        if let hidden { result.hiddenSize = hidden }
        if let feedForward { result.feedForwardWidth = feedForward }
        if let vocabulary { result.vocabularySize = vocabulary }
        if let layers {
            result.windows = (0..<layers).map {
                result.windows.isEmpty ? nil : result.windows[$0 % result.windows.count]
            }
            result.layerCount = layers
        }
        setExperts(&result)
        result = try withAttention(result)
        try result.validate(source: name)
        return result
    }

    /// Reads a config.json alone where the weights are not there.
    private static func configuration(at path: String) throws -> DecoderConfiguration {
        for config in [path + "/config.json", path] {
            // What is no JSON ends at its first bytes.
            guard let file = try? MappedFile(path: config), let json = try? file.json() else { continue }
            return try DecoderConfiguration(json: json, file: file.name)
        }
        return try Checkpoints.open(path).configuration
    }

    private func sizes() throws -> DecoderConfiguration {
        guard let layers, let hidden, let queryHeads, let feedForward, let vocabulary else {
            throw ValidationError(
                "expected a model, --shape, or all of --layers, --hidden, --query-heads, --feed-forward and --vocabulary"
            )
        }
        let width = headWidth ?? hidden / queryHeads
        guard width >= 1 else { throw ValidationError("--head-width: expected one where hidden < query heads") }
        return DecoderConfiguration(
            architecture: .llama, vocabularySize: vocabulary, hiddenSize: hidden, layerCount: layers,
            queryHeads: queryHeads, kvHeads: kvHeads, headWidth: width, feedForwardWidth: feedForward,
            rotary: RotaryConfiguration(width: width), maxPositions: 1 << 20)
    }

    private func setExperts(_ result: inout DecoderConfiguration) {
        if experts == 0 {
            result.experts = nil
            return
        }
        guard experts != nil || result.experts != nil else { return }
        var value = result.experts ?? ExpertConfiguration(count: 1, expertsPerToken: 1, width: result.feedForwardWidth)
        if let experts {
            value.count = experts
            value.selection = .greedy
        }
        if let expertsPerToken { value.expertsPerToken = expertsPerToken }
        if let expertWidth { value.width = expertWidth }
        if let sharedWidth { value.sharedWidth = sharedWidth }
        if let denseLayers { value.denseLayers = denseLayers }
        result.experts = value
        if !result.architecture.isDeepSeekLike { result.architecture = .deepseekV2 }
    }

    private func withAttention(_ model: DecoderConfiguration) throws -> DecoderConfiguration {
        let given: [Int?] = [queryHeads, kvHeads, headWidth, latentHeads, latentWidth, ropeWidth]
        guard variant != nil || given.contains(where: { $0 != nil }) else { return model }
        let wanted = variant ?? model.variant
        let heads = queryHeads ?? model.queryHeads
        var widths = AttentionWidths(
            queryHeads: heads, kvHeads: kvHeads ?? (wanted == .gqa || wanted == .gta ? model.kvHeads : heads),
            headWidth: headWidth ?? model.headWidth, latentHeads: latentHeads ?? 2, latentWidth: latentWidth,
            ropeWidth: ropeWidth)
        switch model.attention {
        case .grouped: break
        case .tied(let width): widths.ropeWidth = ropeWidth ?? width
        case .latent(let latent):
            widths.ropeWidth = ropeWidth ?? latent.rotaryWidth
            if wanted == model.variant {
                widths.latentHeads = latentHeads ?? latent.latentHeads
                widths.latentWidth = latentWidth ?? latent.latentWidth
            }
        }
        return try model.withAttention(wanted, widths)
    }
}

/// Reads a JSON file for a plan.
enum PlanFiles {
    static func json(_ path: String) throws -> JSONNode {
        do { return try MappedFile(path: path).json() } catch let error as JSONError {
            throw ValidationError("\(path): \(error)")
        }
    }

    /// A device of the table, this machine's CPU, or the machine that `apus doctor --json` described.
    static func device(_ name: String) throws -> DeviceFigures {
        if name == "cpu" {
            return try DeviceFigures(
                cpu: JSONNode(DoctorReport(measure: true).json, name: "this machine").child("cpu"))
        }
        return name.contains(where: { "./".contains($0) })
            ? try DeviceFigures(doctor: try json(name)) : try DeviceFigures.named(name)
    }
}
