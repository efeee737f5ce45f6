import ApusTensor

extension LatentAttention {
    /// Whether a sequence's new tokens are read explicitly rather than absorbed: whichever takes less time, in units of one
    /// multiplication of float32 attention for one head.
    ///
    /// Absorbed, a pair of query and cached token costs d_c + d_R for the score and d_c for the value. Explicitly it costs
    /// content + d_R and value, but every token of the sequence is up-projected and moved into the workspace first. (New
    /// tokens pass both up-projections when absorbed.) The constants fit times at 2 threads of Zen 4, heads of 64 and 128,
    /// latents of 128 to 512 and prefixes up to 4096: there the choice changes at 190 to 350 new tokens.
    /// - Parameters:
    ///   - newTokens: tokens that this step appends.
    ///   - length: tokens of the sequence, these included.
    ///   - cacheType: dtype of the cached latents; narrow ones are read absorbed in bf16 arithmetic.
    static func isExplicit(newTokens: Int, length: Int, widths: LatentConfiguration, cacheType: DType) -> Bool {
        guard newTokens >= leastExplicitTokens else { return false }
        let pairs = Double(newTokens) * (Double(length) - Double(newTokens - 1) / 2)
        let explicitWidth = Double(widths.queryWidth + widths.valueWidth)
        let projection = projectionCost * Double((widths.contentWidth + widths.valueWidth) * widths.latentWidth)
        let absorbedPair = Double(2 * widths.latentWidth + widths.rotaryWidth) * (cacheType == .f32 ? 1 : narrowCost)
        let absorbed = pairs * absorbedPair + Double(newTokens) * projection
        let explicit = pairs * explicitWidth + Double(length) * (projection + moveCost * explicitWidth)
        return explicit < absorbed
    }

    /// Below this nothing can be saved.
    private static let leastExplicitTokens = 16
    /// A multiplication of the up-projection.
    private static let projectionCost = 0.57
    /// Moving one element of a key or value into the workspace.
    private static let moveCost = 220.0
    /// A multiplication of attention over a cache that is not float32.
    private static let narrowCost = 0.65
}
