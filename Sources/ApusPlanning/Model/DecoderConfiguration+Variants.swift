import ApusAttention
import ApusModels

extension DecoderConfiguration {
    /// The same model with another attention variant: heads, layers and feed-forwards stay, the widths are those given.
    ///
    /// What is nil in `widths` is the paper's. A query latent, where the model has one, stays as it is.
    /// - Throws: ``GeometryError``, or the errors of ``validate(source:)``.
    public func withAttention(_ variant: AttentionVariant, _ widths: AttentionWidths) throws -> DecoderConfiguration {
        var model = self
        let geometry = try widths.geometry(of: variant)
        model.queryHeads = widths.queryHeads
        model.headWidth = widths.headWidth
        model.fusedQKV = nil
        var rotaryWidth = widths.headWidth
        switch variant {
        case .mha, .mqa, .gqa:
            model.attention = .grouped
            model.kvHeads = geometry.groups
        case .gta:
            rotaryWidth = geometry.key
            model.attention = .tied(rotaryWidth: rotaryWidth)
            model.kvHeads = geometry.groups
        case .mla, .gla:
            rotaryWidth = geometry.key
            var (rank, content, value) = (Optional(8 * widths.headWidth), widths.headWidth, widths.headWidth)
            if case .latent(let latent) = attention {
                (rank, content, value) = (latent.queryRank, latent.contentWidth, latent.valueWidth)
            }
            model.attention = .latent(
                LatentConfiguration(
                    latentHeads: geometry.groups, latentWidth: geometry.shared, rotaryWidth: rotaryWidth,
                    contentWidth: content, valueWidth: value, queryRank: rank))
        }
        model.rotary = RotaryConfiguration(width: rotaryWidth, theta: rotary.theta)
        model.slidingRotary = nil
        try model.validate(source: "the planned model")
        return model
    }
}

extension DecoderConfiguration {
    /// The attention's name with its number of states where that is free: GQA-4, GTA-4, GLA-2.
    public var variantName: String {
        var widths = AttentionWidths(queryHeads: queryHeads, kvHeads: kvHeads, headWidth: headWidth)
        if case .latent(let latent) = attention { widths.latentHeads = latent.latentHeads }
        return widths.name(of: variant)
    }
}
