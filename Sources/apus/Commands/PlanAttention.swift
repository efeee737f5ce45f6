import ApusAttention
import ApusModels
import ApusPlanning
import ApusTensor
import ApusText
import ArgumentParser

extension AttentionVariant: ExpressibleByArgument {}

/// `apus plan attention [MODEL]`.
struct PlanAttention: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "attention",
        abstract: "Bytes per token and device, duplication and arithmetic intensity of each attention variant.",
        discussion: """
            Widths come from a model's configuration or from the options; options win. Bytes are those of the cached \
            elements, over all layers. Duplication is how many devices keep the same state. FLOP/byte counts cache, \
            queries and outputs at --context cached tokens; 2 g_q/m_kv is its limit in the paper's terms.

            EXAMPLES:
              apus plan attention model.gguf
              apus plan attention --query-heads 32 --kv-heads 8 --head-width 128 --layers 32
              apus plan attention --query-heads 128 --head-width 128 --variant mla --variant gla --latent-heads 8 \
            --rope-width 64 --dtype f8e4m3 --json
            """)

    @Argument(help: "A GGUF file, a safetensors file beside its config.json, or a Hugging Face directory.")
    var model: String?

    @Option(help: "Query heads.")
    var queryHeads: Int?

    @Option(help: "KV heads of GQA and GTA; as many as query heads by default.")
    var kvHeads: Int?

    @Option(help: "Width of a head.")
    var headWidth: Int?

    @Option(help: "Latent heads of GLA; by default the smallest number above 1 that divides the query heads.")
    var latentHeads: Int?

    @Option(help: "Width of each latent; by default 4 head widths for MLA, 2 for GLA.")
    var latentWidth: Int?

    @Option(help: "Width of the RoPE key of GTA, MLA and GLA; half a head by default.")
    var ropeWidth: Int?

    @Option(help: "Variants: mha, mqa, gqa, gta, mla, gla (repeat for several); all by default.")
    var variant: [AttentionVariant] = []

    @Option(help: "Layers; 1 by default, or the model's.")
    var layers: Int?

    @Option(help: "Type of the cache: f32, bf16, f16, q8_0 or f8e4m3.")
    var dtype = "bf16"

    @Option(parsing: .upToNextOption, help: "Numbers of tensor-parallel devices.")
    var tp: [Int] = [1, 2, 4, 8]

    @Option(help: "Cached tokens at which FLOP/byte is taken.")
    var context = 8192

    @Option(help: "Query tokens per step and sequence.")
    var queryTokens = 1

    @Flag(help: "Print one JSON array with an object per variant.")
    var json = false

    func validate() throws {
        for (name, value) in [
            ("query-heads", queryHeads), ("kv-heads", kvHeads), ("head-width", headWidth), ("layers", layers),
            ("latent-heads", latentHeads), ("latent-width", latentWidth), ("rope-width", ropeWidth),
            ("context", context), ("query-tokens", queryTokens), ("tp", tp.min()),
        ] {
            if let value, !(1...1 << 30).contains(value) {
                throw ValidationError("--\(name): expected an integer between 1 and 2^30, found \(value)")
            }
        }
        guard model != nil || (queryHeads != nil && headWidth != nil) else {
            throw ValidationError("expected a model, or --query-heads and --head-width")
        }
        _ = try bytesPerElement()
    }

    func run() throws {
        let configuration = try model.map { try Checkpoints.open($0).configuration }
        guard let heads = queryHeads ?? configuration?.queryHeads, let width = headWidth ?? configuration?.headWidth
        else {
            throw ValidationError("expected a model, or --query-heads and --head-width")
        }
        let plans = try (variant.isEmpty ? AttentionVariant.allCases : variant).flatMap { variant in
            try widths(heads, width, configuration, variant).plans(
                [variant], layers: layers ?? configuration?.layerCount ?? 1,
                setting: AttentionPlan.Setting(
                    bytesPerElement: try bytesPerElement(), ranks: tp, context: context, queryTokens: queryTokens))
        }
        print(json ? JSONValue.array(plans.map(Self.object)).serialized() : AttentionPlan.table(plans))
    }

    /// The widths of one variant; a model's own variant has the model's.
    private func widths(
        _ heads: Int, _ width: Int, _ configuration: DecoderConfiguration?, _ variant: AttentionVariant
    ) -> AttentionWidths {
        var latents = latentHeads ?? (2...max(heads, 2)).first { heads % $0 == 0 } ?? 1
        var (latentWidth, ropeWidth) = (latentWidth, ropeWidth)
        if queryHeads == nil, headWidth == nil, let configuration, variant == configuration.variant {
            switch configuration.attention {
            case .grouped: break
            case .tied(let rotaryWidth): ropeWidth = ropeWidth ?? rotaryWidth
            case .latent(let latent):
                if latentHeads == nil { latents = latent.latentHeads }
                latentWidth = latentWidth ?? latent.latentWidth
                ropeWidth = ropeWidth ?? latent.rotaryWidth
            }
        }
        return AttentionWidths(
            queryHeads: heads, kvHeads: kvHeads ?? (queryHeads == nil ? configuration?.kvHeads : nil) ?? heads,
            headWidth: width, latentHeads: latents, latentWidth: latentWidth, ropeWidth: ropeWidth)
    }

    private func bytesPerElement() throws -> Double {
        guard let type = DType(rawValue: dtype), [.f32, .bf16, .f16, .q8_0, .f8e4m3].contains(type) else {
            throw ValidationError("--dtype: expected f32, bf16, f16, q8_0 or f8e4m3, found \(dtype)")
        }
        return Double(type.bytesPerBlock) / Double(type.blockSize)
    }

    private static func object(_ plan: AttentionPlan) -> JSONValue {
        let devices = zip(plan.setting.ranks, plan.devices).map { ranks, device -> JSONValue in
            switch device {
            case .success(let device):
                .object(
                    JSONObject([
                        ("tp", .integer(Int64(ranks))), ("elementsPerToken", .integer(Int64(device.elementsPerToken))),
                        ("bytesPerToken", .double(device.bytesPerToken)),
                        ("duplication", .integer(Int64(device.duplication))),
                        ("intensity", .double(device.intensity)),
                    ]))
            case .failure(let error):
                .object(JSONObject([("tp", .integer(Int64(ranks))), ("error", .string(error.description))]))
            }
        }
        return .object(
            JSONObject([
                ("attention", .string(plan.name)), ("layers", .integer(Int64(plan.geometries.count))),
                ("nominalIntensity", .double(plan.nominalIntensity)), ("devices", .array(devices)),
            ]))
    }
}
