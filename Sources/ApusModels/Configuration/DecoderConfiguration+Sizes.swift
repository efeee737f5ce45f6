import ApusAttention
import ApusTensor

/// What follows from a configuration alone: cache, parameters.
extension DecoderConfiguration {
    /// What a token leaves in the cache of a layer.
    public func geometry(layer: Int) throws -> CacheGeometry {
        switch attention {
        case .grouped: try .gqa(queryHeads: queryHeads, kvHeads: kvHeads, headWidth: headWidth)
        case .tied(let rotaryWidth):
            try .gta(queryHeads: queryHeads, kvHeads: kvHeads, headWidth: headWidth, ropeWidth: rotaryWidth)
        case .latent(let latent):
            try .gla(
                queryHeads: queryHeads, latentHeads: latent.latentHeads, latentWidth: latent.latentWidth,
                ropeWidth: latent.rotaryWidth)
        }
    }

    /// The variant's name in the paper.
    public var variant: AttentionVariant {
        switch attention {
        case .grouped: kvHeads == queryHeads ? .mha : kvHeads == 1 ? .mqa : .gqa
        case .tied: .gta
        case .latent(let latent): latent.latentHeads == 1 ? .mla : .gla
        }
    }

    /// Elements of all weights; a tied head counts once.
    public var parameterCount: Int {
        tensorRoles.reduce(0) { $0 + shape(of: $1).count }
    }

    /// Bytes that one token leaves in the cache of all layers, without padding.
    /// - Parameter bytesPerElement: 2 for bf16.
    public func cacheBytesPerToken(bytesPerElement: Double = 2) throws -> Double {
        try (0..<layerCount).reduce(0) {
            $0 + (try geometry(layer: $1).bytesPerToken(bytesPerElement: bytesPerElement))
        }
    }
}
