/// What the projections of a layer compute beside its query heads: which of the six variants a model uses, with the widths
/// that the variant adds. The widths of a head itself (query heads, KV heads, head width) are the model's.
///
/// Source: "Hardware-Efficient Attention for Fast Decoding", Zadouri, Strauss, Dao 2025 (arXiv 2505.21487), section 3.
public enum AttentionConfiguration: Sendable, Hashable {
    /// Keys and values of their own for each KV head: MHA, GQA and MQA by the number of KV heads.
    case grouped
    /// Grouped-tied attention (GTA): one state per KV head is its value and, but for the last `rotaryWidth` elements, its
    /// key; the rest of the key is one rotated key that all heads read.
    case tied(rotaryWidth: Int)
    /// Multi-head latent attention (MLA, one latent head) and grouped latent attention (GLA, several).
    case latent(LatentConfiguration)
}

/// Keys and values that are up-projections of a cached latent, beside a decoupled RoPE key that all heads read.
///
/// Latent head g serves query heads `g · h_q / h_c ..< (g + 1) · h_q / h_c`. A head's query and key are
/// `[content | RoPE]`, its score is scaled by `1 / sqrt(contentWidth + rotaryWidth)`.
public struct LatentConfiguration: Sendable, Hashable {
    /// Latent heads: h_c in the paper, 1 for MLA.
    public var latentHeads: Int
    /// Elements of one latent: d_c in the paper.
    public var latentWidth: Int
    /// Elements of the decoupled RoPE key: d_R in the paper; even.
    public var rotaryWidth: Int
    /// Elements of a head's query and key that are not rotated.
    public var contentWidth: Int
    /// Elements of a head's value.
    public var valueWidth: Int
    /// Elements of the query latent, over all latent heads; nil where queries are projected directly.
    public var queryRank: Int?
    /// Whether each latent head has a query latent of its own, of `queryRank / latentHeads` (GLA_q).
    public var splitsQueryLatent: Bool
    /// Whether the projections to the latents have biases.
    public var hasDownBias: Bool
    /// Whether the projections from the latents have biases.
    public var hasUpBias: Bool
    /// Added to the mean square in the norms of the latents.
    public var normEpsilon: Double

    /// A description from its widths; by default without biases, with one query latent.
    public init(
        latentHeads: Int, latentWidth: Int, rotaryWidth: Int, contentWidth: Int, valueWidth: Int, queryRank: Int?,
        splitsQueryLatent: Bool = false, hasDownBias: Bool = false, hasUpBias: Bool = false, normEpsilon: Double = 1e-6
    ) {
        self.latentHeads = latentHeads
        self.latentWidth = latentWidth
        self.rotaryWidth = rotaryWidth
        self.contentWidth = contentWidth
        self.valueWidth = valueWidth
        self.queryRank = queryRank
        self.splitsQueryLatent = splitsQueryLatent
        self.hasDownBias = hasDownBias
        self.hasUpBias = hasUpBias
        self.normEpsilon = normEpsilon
    }

    /// MLA with the paper's widths for heads of `headWidth`: d_c = 4 d_h, query latent 8 d_h.
    public static func mla(headWidth: Int, rotaryWidth: Int) -> LatentConfiguration {
        LatentConfiguration(
            latentHeads: 1, latentWidth: 4 * headWidth, rotaryWidth: rotaryWidth, contentWidth: headWidth,
            valueWidth: headWidth, queryRank: 8 * headWidth)
    }

    /// GLA with the paper's widths for heads of `headWidth`: d_c = 2 d_h, query latent 8 d_h, biases as in the authors'
    /// modelling file.
    public static func gla(headWidth: Int, latentHeads: Int = 2, rotaryWidth: Int) -> LatentConfiguration {
        LatentConfiguration(
            latentHeads: latentHeads, latentWidth: 2 * headWidth, rotaryWidth: rotaryWidth, contentWidth: headWidth,
            valueWidth: headWidth, queryRank: 8 * headWidth, hasDownBias: true, hasUpBias: true)
    }

    /// Elements of a head's query and key: content, then RoPE.
    public var queryWidth: Int { contentWidth + rotaryWidth }
    /// Query latents: one, or one per latent head.
    public var queryLatents: Int { queryRank == nil ? 0 : splitsQueryLatent ? latentHeads : 1 }
}
