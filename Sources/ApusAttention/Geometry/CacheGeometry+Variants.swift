/// The attention variants whose cache ``CacheGeometry`` describes.
public enum AttentionVariant: String, Sendable, Hashable, CaseIterable, Codable {
    /// Multi-head attention.
    case mha
    /// Multi-query attention.
    case mqa
    /// Grouped-query attention.
    case gqa
    /// Grouped-tied attention.
    case gta
    /// Multi-head latent attention.
    case mla
    /// Grouped latent attention.
    case gla
}

extension CacheGeometry {
    /// Multi-head attention: 2 h_q d_h elements a token.
    public static func mha(queryHeads: Int, headWidth: Int) throws -> CacheGeometry {
        try gqa(queryHeads: queryHeads, kvHeads: queryHeads, headWidth: headWidth)
    }

    /// Grouped-query attention: 2 h_kv d_h elements a token. `valueWidth` is the head width unless the model's values are
    /// narrower or wider than its keys.
    public static func gqa(
        queryHeads: Int, kvHeads: Int, headWidth: Int, valueWidth: Int? = nil
    ) throws -> CacheGeometry {
        try CacheGeometry(
            queryHeads: queryHeads, groups: kvHeads, shared: 0, key: headWidth, keyKept: .perGroup,
            value: valueWidth ?? headWidth)
    }

    /// Multi-query attention: 2 d_h elements a token.
    public static func mqa(queryHeads: Int, headWidth: Int) throws -> CacheGeometry {
        try gqa(queryHeads: queryHeads, kvHeads: 1, headWidth: headWidth)
    }

    /// Grouped-tied attention: h_kv d_h + d_R elements a token.
    ///
    /// The tied state of `headWidth` is the value; the key is its first `headWidth - ropeWidth` elements and the rotated
    /// key of `ropeWidth`, kept once. `ropeWidth` is half the head by default. The value-only part is what the key does
    /// not read of the state.
    public static func gta(
        queryHeads: Int, kvHeads: Int, headWidth: Int, ropeWidth: Int? = nil
    ) throws -> CacheGeometry {
        let rope = ropeWidth ?? headWidth / 2
        guard rope >= 0, rope < headWidth else { throw GeometryError.ropeWidth(found: rope, headWidth: headWidth) }
        return try CacheGeometry(
            queryHeads: queryHeads, groups: kvHeads, shared: headWidth - rope, key: rope, keyKept: .once, value: rope)
    }

    /// Multi-head latent attention: d_c + d_R elements a token (d_c is 4 d_h in the paper).
    public static func mla(queryHeads: Int, latentWidth: Int, ropeWidth: Int) throws -> CacheGeometry {
        try gla(queryHeads: queryHeads, latentHeads: 1, latentWidth: latentWidth, ropeWidth: ropeWidth)
    }

    /// Grouped latent attention: h_c d_c + d_R elements a token (d_c is 2 d_h in the paper).
    public static func gla(
        queryHeads: Int, latentHeads: Int, latentWidth: Int, ropeWidth: Int
    ) throws -> CacheGeometry {
        try CacheGeometry(
            queryHeads: queryHeads, groups: latentHeads, shared: latentWidth, key: ropeWidth, keyKept: .once, value: 0)
    }
}
