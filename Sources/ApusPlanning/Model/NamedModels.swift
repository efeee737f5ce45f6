import ApusAttention
import ApusModels

/// Shapes of well-known models, from their published configurations, for plans without a file.
public enum NamedModels {
    /// Their names.
    public static let names = ["smollm2-135m", "llama-3-8b", "llama-3-70b", "deepseek-v2-lite", "deepseek-coder-v2"]

    /// A model's configuration.
    ///
    /// SmolLM2-135M, Llama 3 8B and 70B, DeepSeek-V2-Lite (16B, of which 2.4B work on a token: MLA of 512 + 64 elements without
    /// a query latent, 64 experts, 6 a token) and DeepSeek-Coder-V2 (236B, of which 21B work on a token: MLA of 512 + 64
    /// elements, 160 experts, 6 a token), all from the config.json that their makers publish.
    /// - Throws: ``PlanningError/unknownName(kind:expected:found:)``.
    public static func configuration(_ name: String) throws(PlanningError) -> DecoderConfiguration {
        switch name.lowercased() {
        case "smollm2-135m":
            var model = DecoderConfiguration(
                architecture: .llama, vocabularySize: 49152, hiddenSize: 576, layerCount: 30, queryHeads: 9, kvHeads: 3,
                headWidth: 64, feedForwardWidth: 1536, rotary: RotaryConfiguration(width: 64, theta: 100_000),
                maxPositions: 8192)
            model.tiesEmbeddings = true
            return model
        case "llama-3-8b":
            return DecoderConfiguration(
                architecture: .llama, vocabularySize: 128_256, hiddenSize: 4096, layerCount: 32, queryHeads: 32,
                kvHeads: 8, headWidth: 128, feedForwardWidth: 14336,
                rotary: RotaryConfiguration(width: 128, theta: 500_000), maxPositions: 8192)
        case "llama-3-70b":
            return DecoderConfiguration(
                architecture: .llama, vocabularySize: 128_256, hiddenSize: 8192, layerCount: 80, queryHeads: 64,
                kvHeads: 8, headWidth: 128, feedForwardWidth: 28672,
                rotary: RotaryConfiguration(width: 128, theta: 500_000), maxPositions: 8192)
        case "deepseek-v2-lite":
            var model = DecoderConfiguration(
                architecture: .deepseekV2, vocabularySize: 102_400, hiddenSize: 2048, layerCount: 27, queryHeads: 16,
                headWidth: 128, feedForwardWidth: 10944, rotary: RotaryConfiguration(width: 64), maxPositions: 163_840)
            model.attention = .latent(
                LatentConfiguration(
                    latentHeads: 1, latentWidth: 512, rotaryWidth: 64, contentWidth: 128, valueWidth: 128,
                    queryRank: nil))
            model.experts = ExpertConfiguration(
                count: 64, expertsPerToken: 6, width: 1408, sharedWidth: 2816, denseLayers: 1)
            return model
        case "deepseek-coder-v2":
            var model = DecoderConfiguration(
                architecture: .deepseekV2, vocabularySize: 102_400, hiddenSize: 5120, layerCount: 60, queryHeads: 128,
                headWidth: 128, feedForwardWidth: 12288, rotary: RotaryConfiguration(width: 64), maxPositions: 163_840)
            model.attention = .latent(
                LatentConfiguration(
                    latentHeads: 1, latentWidth: 512, rotaryWidth: 64, contentWidth: 128, valueWidth: 128,
                    queryRank: 1536))
            model.experts = ExpertConfiguration(
                count: 160, expertsPerToken: 6, width: 1536, sharedWidth: 3072, denseLayers: 1,
                selection: .groupLimited(groups: 8, kept: 3), weightScale: 16)
            return model
        default: throw PlanningError.unknownName(kind: "model", expected: names, found: name)
        }
    }
}
