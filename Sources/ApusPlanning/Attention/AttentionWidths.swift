import ApusAttention

/// Widths of a model's attention, from which the geometry of each variant follows.
public struct AttentionWidths: Sendable, Hashable {
    /// Query heads (h_q).
    public var queryHeads: Int
    /// Distinct KV heads of GQA and GTA (h_kv).
    public var kvHeads: Int
    /// Head width (d_h).
    public var headWidth: Int
    /// Latent heads of GLA (h_c).
    public var latentHeads: Int
    /// Width of a latent (d_c); nil takes the paper's: 4 d_h for MLA, 2 d_h for GLA.
    public var latentWidth: Int?
    /// RoPE width of GTA, MLA and GLA (d_R); nil takes d_h / 2.
    public var ropeWidth: Int?

    /// Widths; two latent heads and the paper's latent and RoPE widths by default.
    public init(
        queryHeads: Int, kvHeads: Int, headWidth: Int, latentHeads: Int = 2, latentWidth: Int? = nil,
        ropeWidth: Int? = nil
    ) {
        self.queryHeads = queryHeads
        self.kvHeads = kvHeads
        self.headWidth = headWidth
        self.latentHeads = latentHeads
        self.latentWidth = latentWidth
        self.ropeWidth = ropeWidth
    }

    /// The geometry of a variant.
    /// - Throws: ``GeometryError`` when the widths do not fit.
    public func geometry(of variant: AttentionVariant) throws -> CacheGeometry {
        let rope = ropeWidth ?? headWidth / 2
        switch variant {
        case .mha: return try .mha(queryHeads: queryHeads, headWidth: headWidth)
        case .mqa: return try .mqa(queryHeads: queryHeads, headWidth: headWidth)
        case .gqa: return try .gqa(queryHeads: queryHeads, kvHeads: kvHeads, headWidth: headWidth)
        case .gta: return try .gta(queryHeads: queryHeads, kvHeads: kvHeads, headWidth: headWidth, ropeWidth: rope)
        case .mla: return try .mla(queryHeads: queryHeads, latentWidth: latentWidth ?? 4 * headWidth, ropeWidth: rope)
        case .gla:
            return try .gla(
                queryHeads: queryHeads, latentHeads: latentHeads, latentWidth: latentWidth ?? 2 * headWidth,
                ropeWidth: rope)
        }
    }

    /// The variant's name with its number of states where that is free: GQA-4, GTA-4, GLA-2.
    public func name(of variant: AttentionVariant) -> String {
        switch variant {
        case .mha, .mqa, .mla: variant.rawValue.uppercased()
        case .gqa, .gta: "\(variant.rawValue.uppercased())-\(kvHeads)"
        case .gla: "GLA-\(latentHeads)"
        }
    }
}
