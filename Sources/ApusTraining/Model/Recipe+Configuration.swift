import ApusAttention
import ApusModels

extension Recipe.Model {
    /// The decoder that the recipe describes.
    /// - Parameters:
    ///   - vocabulary: tokens of the tokenizer.
    ///   - maxPositions: positions the model is meant for.
    /// - Throws: configuration errors, named; a recipe that was read has been checked for most of them.
    public func decoderConfiguration(vocabulary: Int, maxPositions: Int) throws -> DecoderConfiguration {
        let width = resolvedHeadWidth
        let isLatent = attention == .mla || attention == .gla || attention == .glaQ
        var configuration = DecoderConfiguration(
            architecture: attention == .mla ? .deepseekV2 : .llama, vocabularySize: self.vocabulary ?? vocabulary,
            hiddenSize: hiddenSize, layerCount: layers, queryHeads: heads,
            kvHeads: isLatent ? heads : resolvedKVHeads, headWidth: width, feedForwardWidth: resolvedFeedForwardWidth,
            rotary: RotaryConfiguration(
                width: resolvedRopeWidth, theta: ropeTheta, style: attention == .mla ? .interleaved : .halfSplit),
            maxPositions: maxPositions)
        switch attention {
        case .mha, .mqa, .gqa: break
        case .gta: configuration.attention = .tied(rotaryWidth: resolvedRopeWidth)
        case .mla, .gla, .glaQ:
            configuration.attention = .latent(
                LatentConfiguration(
                    latentHeads: resolvedLatentHeads, latentWidth: resolvedLatentWidth, rotaryWidth: resolvedRopeWidth,
                    contentWidth: width, valueWidth: width, queryRank: resolvedQueryRank,
                    splitsQueryLatent: attention == .glaQ, hasDownBias: attention != .mla, hasUpBias: attention != .mla,
                    // DeepSeek's files fix it.
                    normEpsilon: attention == .mla ? 1e-6 : normEpsilon))
        }
        configuration.normEpsilon = normEpsilon
        configuration.tiesEmbeddings = tieEmbeddings
        configuration.weightDType = .f32
        try configuration.validate(source: "recipe")
        return configuration
    }
}
