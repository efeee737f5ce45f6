extension LatentAttention {
    /// Whether a sequence's new tokens are read explicitly rather than absorbed.
    /// - Parameters:
    ///   - newTokens: tokens that this step appends.
    ///   - length: tokens of the sequence, these included.
    public func isExplicit(newTokens: Int, length: Int) -> Bool {
        Self.isExplicit(newTokens: newTokens, length: length, widths: widths)
    }

    /// The same from the widths: by the multiplications of a head, those of the up-projection being cheaper by
    /// ``productAdvantage`` than those of attention.
    ///
    /// Absorbed, a pair of query and key costs d_c + d_R for the score and d_c for the value, and each new token passes both
    /// up-projections. Explicitly, a pair costs content + d_R and value, and each token of the sequence passes them.
    static func isExplicit(newTokens: Int, length: Int, widths: LatentConfiguration) -> Bool {
        guard newTokens >= leastExplicitTokens else { return false }
        let pairs = Double(newTokens) * (Double(length) - Double(newTokens - 1) / 2)
        let projection = Double((widths.contentWidth + widths.valueWidth) * widths.latentWidth) / productAdvantage
        let absorbed = pairs * Double(2 * widths.latentWidth + widths.rotaryWidth) + Double(newTokens) * projection
        let explicit = pairs * Double(widths.queryWidth + widths.valueWidth) + Double(length) * projection
        return explicit < absorbed
    }

    /// Below this, building the workspace costs more than it can save.
    static let leastExplicitTokens = 16
    /// How much faster a multiplication of the up-projection is than one of attention.
    static let productAdvantage = 1.5
}
