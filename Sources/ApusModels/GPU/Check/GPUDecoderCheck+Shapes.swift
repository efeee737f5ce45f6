import ApusAttention
import ApusTensor

extension GPUDecoderCheck {
    /// A small model with random weights.
    public struct Shape: Sendable {
        /// What sets it apart.
        public let name: String
        /// What it is.
        public let configuration: DecoderConfiguration
        /// The type of a matrix, where its rows are whole blocks of it.
        public let type: @Sendable (TensorRole) -> DType

        init(
            _ name: String, _ configuration: DecoderConfiguration,
            type: @escaping @Sendable (TensorRole) -> DType = { _ in .bf16 }
        ) {
            (self.name, self.configuration, self.type) = (name, configuration, type)
        }
    }

    /// A small Llama.
    static func model(
        _ heads: Int, _ groups: Int, _ head: Int, width: Int, inner: Int, vocabulary: Int, layers: Int = 3,
        style: RotaryStyle = .halfSplit, _ change: (inout DecoderConfiguration) -> Void = { _ in }
    ) -> DecoderConfiguration {
        var model = DecoderConfiguration(
            architecture: .llama, vocabularySize: vocabulary, hiddenSize: width, layerCount: layers,
            queryHeads: heads, kvHeads: groups, headWidth: head, feedForwardWidth: inner,
            rotary: RotaryConfiguration(width: head, style: style), maxPositions: 4096)
        change(&model)
        return model
    }

    /// One of each kind that the kernels tell apart.
    public static let shapes: [Shape] = plain + quantised + withExperts

    /// Attention, norms and widths.
    static let plain: [Shape] =
        [
            Shape(
                "SmolLM2's layers",
                model(9, 3, 64, width: 576, inner: 1536, vocabulary: 3000) { $0.tiesEmbeddings = true }
            ),
            Shape(
                "norms of queries and keys, biases",
                model(4, 2, 128, width: 256, inner: 520, vocabulary: 777) {
                    $0.queryKeyNorm = true
                    $0.attentionBias = true
                    $0.logitScale = 0.5
                    $0.embeddingScale = 3
                }
            ),
            Shape(
                "heads of their own, pairs of neighbours, windows",
                model(4, 4, 32, width: 136, inner: 200, vocabulary: 501, style: .interleaved) {
                    $0.windows = [40, nil, 200]
                }
            ),
            Shape("16 heads to a group", model(16, 1, 64, width: 512, inner: 1024, vocabulary: 1000)),
            Shape("heads of 96", model(4, 2, 96, width: 384, inner: 768, vocabulary: 1000)),
            Shape(
                "GTA-4, 3 heads to a group",
                model(12, 4, 64, width: 384, inner: 768, vocabulary: 1000) {
                    ($0.attention, $0.rotary) = (.tied(rotaryWidth: 32), RotaryConfiguration(width: 32))
                }
            ),
            Shape(
                "GTA-1, heads of 128, biases, pairs of neighbours",
                model(5, 1, 128, width: 264, inner: 520, vocabulary: 777) {
                    ($0.attention, $0.rotary) = (
                        .tied(rotaryWidth: 64), RotaryConfiguration(width: 64, style: .interleaved)
                    )
                    ($0.attentionBias, $0.attentionOutputBias, $0.tiesEmbeddings) = (true, true, true)
                }
            ),
            Shape(
                "MLA of 256 + 32",
                model(6, 6, 64, width: 384, inner: 768, vocabulary: 1000) {
                    ($0.attention, $0.rotary) = (
                        .latent(.mla(headWidth: 64, rotaryWidth: 32)), RotaryConfiguration(width: 32)
                    )
                }
            ),
            Shape(
                "MLA of 512 + 64, no query latent, values of 96, pairs of neighbours",
                model(5, 5, 128, width: 264, inner: 520, vocabulary: 777) {
                    $0.attention = .latent(
                        LatentConfiguration(
                            latentHeads: 1, latentWidth: 512, rotaryWidth: 64, contentWidth: 128, valueWidth: 96,
                            queryRank: nil))
                    $0.rotary = RotaryConfiguration(width: 64, style: .interleaved)
                }
            ),
            Shape(
                "GLA-2, biases, 3 heads to a latent",
                model(6, 6, 64, width: 384, inner: 768, vocabulary: 1000) {
                    var latent = LatentConfiguration.gla(headWidth: 64, rotaryWidth: 32)
                    latent.normEpsilon = $0.normEpsilon
                    ($0.attention, $0.rotary) = (.latent(latent), RotaryConfiguration(width: 32))
                }
            ),
            Shape(
                "GLA-2, a query latent each, heads of 48",
                model(8, 8, 48, width: 384, inner: 768, vocabulary: 1000) {
                    var latent = LatentConfiguration.gla(headWidth: 48, rotaryWidth: 48)
                    (latent.latentWidth, latent.splitsQueryLatent) = (96, true)
                    ($0.attention, $0.rotary) = (.latent(latent), RotaryConfiguration(width: 48))
                }
            ),
        ]

    /// Matrices in blocks of GGUF.
    private static let quantised: [Shape] =
        [
            Shape(
                "Q8_0, SmolLM2's layers",
                model(9, 3, 64, width: 576, inner: 1536, vocabulary: 3000) { $0.tiesEmbeddings = true },
                type: { _ in .q8_0 }
            ),
            Shape(
                "Q4_0, norms of queries and keys, biases",
                model(4, 2, 128, width: 288, inner: 544, vocabulary: 777) {
                    ($0.queryKeyNorm, $0.attentionBias) = (true, true)
                }, type: { _ in .q4_0 }
            ),
            Shape("Q4_1", model(8, 2, 64, width: 512, inner: 1024, vocabulary: 1000), type: { _ in .q4_1 }),
            Shape(
                "Q4_K, values, down and head in Q6_K", model(8, 2, 64, width: 512, inner: 768, vocabulary: 1001),
                type: { role in
                    switch role {
                    case .head, .layer(_, .value), .layer(_, .down): .q6_K
                    default: .q4_K
                    }
                }
            ),
            Shape(
                "Q6_K", model(4, 4, 64, width: 256, inner: 512, vocabulary: 600) { $0.tiesEmbeddings = true },
                type: { _ in .q6_K }),
            Shape(
                "GLA-2 in Q8_0, 3 heads to a latent",
                model(6, 6, 64, width: 384, inner: 768, vocabulary: 1000) {
                    ($0.attention, $0.rotary) = (
                        .latent(.gla(headWidth: 64, rotaryWidth: 32)), RotaryConfiguration(width: 32)
                    )
                }, type: { _ in .q8_0 }
            ),
        ]

    /// Mixtures of experts.
    private static let withExperts: [Shape] =
        [
            Shape(
                "16 experts by softmax, 4 a token, shared ones, the first layer dense",
                model(8, 2, 64, width: 512, inner: 1024, vocabulary: 1000) {
                    $0.experts = ExpertConfiguration(
                        count: 16, expertsPerToken: 4, width: 200, sharedWidth: 264, denseLayers: 1)
                }),
            Shape(
                "40 experts of 8 groups, 3 kept, none shared",
                model(4, 4, 64, width: 264, inner: 520, vocabulary: 777) {
                    $0.experts = ExpertConfiguration(
                        count: 40, expertsPerToken: 6, width: 96, selection: .groupLimited(groups: 8, kept: 3),
                        weightScale: 3)
                }),
            Shape(
                "experts as DeepSeek-V3's in Q8_0, MLA of 256 + 32",
                model(6, 6, 64, width: 384, inner: 768, vocabulary: 1000) {
                    ($0.attention, $0.rotary) = (
                        .latent(.mla(headWidth: 64, rotaryWidth: 32)), RotaryConfiguration(width: 32)
                    )
                    $0.experts = ExpertConfiguration(
                        count: 32, expertsPerToken: 8, width: 192, sharedWidth: 192, denseLayers: 1, scoring: .sigmoid,
                        selection: .corrected(groups: 4, kept: 2), normalisesWeights: true, weightScale: 2.5)
                }, type: { _ in .q8_0 }),
            Shape(
                "experts in Q4_K",
                model(8, 2, 64, width: 512, inner: 768, vocabulary: 1000) {
                    $0.experts = ExpertConfiguration(
                        count: 12, expertsPerToken: 2, width: 256, sharedWidth: 512, normalisesWeights: true)
                }, type: { _ in .q4_K }),
        ]
}
