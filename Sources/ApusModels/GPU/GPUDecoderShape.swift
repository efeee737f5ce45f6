import ApusAttention

/// The widths of a model that the GPU's decoder serves: RMSNorm and SwiGLU or experts, one after the other, with grouped (MHA, GQA, MQA),
/// tied (GTA) or latent attention (MLA, GLA); with biases, and grouped attention with norms of queries and keys and sliding
/// windows where the model has them.
package struct GPUDecoderShape: Sendable, Hashable {
    package let layers: Int, width: Int, heads: Int, headWidth: Int, inner: Int, vocabulary: Int
    /// The tokens that the head knows: all of them, or a rank's.
    package let headTokens: Range<Int>
    /// The variant.
    package let attention: AttentionConfiguration
    /// What a token leaves in the pages of a layer.
    package let format: GPUCacheFormat
    /// Elements of what a token's heads give to the output projection.
    package let attended: Int
    /// Of layers that have them.
    package let experts: ExpertConfiguration?

    /// Widths of a head whose values the matrix instructions of prefill attention have.
    private static let headWidths: Set = [16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 256]

    /// The widths of a model, or of a rank's part of it; throws what the kernels do not serve, by name.
    package init(_ whole: DecoderConfiguration, part: ModelSharding? = nil) throws(GPUDecoderError) {
        let model = part?.local ?? whole
        func require(
            _ condition: Bool, _ name: String, _ found: @autoclosure () -> Any, _ expected: String
        ) throws(GPUDecoderError) {
            guard condition else { throw .unsupported(name: name, found: "\(found())", expected: expected) }
        }
        try require(model.head == .languageModel, "head", model.head, "a language model's")
        try require(model.normKind == .rms, "norm", model.normKind.rawValue, "rms")
        try require(
            model.isGated && model.activation == .silu, "activation", model.activation.rawValue, "a gate with silu")
        try require(!model.parallelResidual, "residual", "parallel", "one half after the other")
        if let experts = model.experts {
            try require(part == nil, "feed-forward over ranks", "experts", "a dense one")
            try Self.require(experts, model)
        }
        try require(model.residualScale == 1, "residual scale", model.residualScale, "1")
        for (name, width) in [("hidden size", model.hiddenSize), ("feed-forward width", model.feedForwardWidth)] {
            try require(width % 8 == 0, name, width, "a multiple of 8")
        }
        for rotary in [model.rotary, model.slidingRotary ?? model.rotary] {
            try require(
                rotary.width == model.rotary.width && rotary.style == model.rotary.style, "rotary width", rotary.width,
                "the same in all layers")
            if case .longRope(let short, let long, _, _) = rotary.scaling {
                try require(short == long, "rotary scaling", "LongRoPE", "one that does not depend on the length")
            }
        }
        let hasWindow = model.windows.contains { $0 != nil }
        switch model.attention {
        case .grouped:
            try require(
                Self.headWidths.contains(model.headWidth), "head width", model.headWidth,
                "one of \(Self.headWidths.sorted())")
            try require(
                !hasWindow || model.queryHeads / model.kvHeads <= 8, "sliding windows",
                "\(model.queryHeads / model.kvHeads) heads to a group", "at most 8")
        case .tied:
            try require(
                Self.headWidths.contains(model.headWidth), "head width", model.headWidth,
                "one of \(Self.headWidths.sorted())")
            try require(!hasWindow, "sliding windows", "some", "none with GTA")
        case .latent(let latent):
            for (name, width) in [
                ("content width", latent.contentWidth), ("value width", latent.valueWidth),
                ("query latent", (latent.queryRank ?? 0) / max(latent.queryLatents, 1)),
            ] {
                try require(width % 8 == 0 && width <= 4096, name, width, "a multiple of 8, at most 4096")
            }
            try require(
                latent.latentWidth > 256 || Self.headWidths.contains(latent.latentWidth), "latent width",
                latent.latentWidth, "one of \(Self.headWidths.sorted()), 384 or 512")
            try require(!hasWindow, "sliding windows", "some", "none with \(model.variant.rawValue)")
        }
        try require(
            model.attention == .grouped || !model.queryKeyNorm, "norms of queries and keys", "some",
            "none with \(model.variant.rawValue)")
        do {
            let pages = try GPUCacheFormat(geometry: model.geometry(layer: 0), pageSize: GPUDecoder.pageSize)
            _ = try GPUDecodeSettings(format: pages, queryTokens: 1)
            format = pages
        } catch let error as GPUAttentionError {
            guard case .unsupported(let name, let found, let expected) = error else {
                throw .unsupported(name: "attention", found: "\(error)", expected: "widths that the kernels have")
            }
            throw .unsupported(name: name, found: "\(found)", expected: expected)
        } catch {
            throw .unsupported(name: "attention", found: "\(error)", expected: "widths that the kernels have")
        }
        layers = model.layerCount
        width = model.hiddenSize
        heads = model.queryHeads
        headWidth = model.headWidth
        inner = model.feedForwardWidth
        vocabulary = whole.vocabularySize
        headTokens = part.map { $0.vocabulary(ofRank: $0.rank) } ?? 0..<whole.vocabularySize
        attention = model.attention
        attended = model.queryHeads * model.headValueWidth
        experts = model.experts
    }

    /// Throws what the kernels of experts do not serve, by name.
    private static func require(
        _ experts: ExpertConfiguration, _ model: DecoderConfiguration
    ) throws(GPUDecoderError) {
        var groups = 1
        switch experts.selection {
        case .greedy: break
        case .groupLimited(let count, _), .corrected(let count, _): groups = count
        }
        for (name, found, isServed, expected) in [
            ("experts", experts.count, experts.count <= 256, "at most 256"),
            ("experts a token", experts.expertsPerToken, experts.expertsPerToken <= 32, "at most 32"),
            ("groups of experts", groups, groups <= 32, "at most 32"),
            ("expert width", experts.width, experts.width % 8 == 0, "a multiple of 8"),
            ("width of shared experts", experts.sharedWidth, experts.sharedWidth % 8 == 0, "a multiple of 8"),
        ] where !isServed {
            throw .unsupported(name: name, found: "\(found)", expected: expected)
        }
        guard !model.feedForwardBias else {
            throw .unsupported(name: "feed-forward biases", found: "some", expected: "none beside experts")
        }
    }

    private var geometry: CacheGeometry { format.geometry }

    /// Elements between the products of a dense feed-forward or of shared experts.
    package var widestInner: Int { max(inner, experts?.sharedWidth ?? 0) }

    /// Latent attention's widths.
    package var latent: LatentConfiguration? { if case .latent(let latent) = attention { latent } else { nil } }

    /// What a row of the first product begins with, where its key is kept once.
    package var queries: GPUSharedAppend.Queries {
        guard let latent else { return .heads }
        guard let rank = latent.queryRank else { return .untouched(heads * latent.queryWidth) }
        return .latents(count: latent.queryLatents, width: rank / latent.queryLatents)
    }

    /// Elements that the first product gives of a token: queries, keys and values; or, where the key is kept once, queries or
    /// query latents, states, key.
    package var projected: Int {
        attention == .grouped
            ? (heads + 2 * geometry.groups) * headWidth : GPUSharedAppend.projectedWidth(queries, geometry)
    }
    /// Elements of a token's queries as attention reads them.
    package var attentionQueries: Int { heads * geometry.queryWidth }
    /// Elements of what attention gives of a token.
    package var attentionOutputs: Int { heads * geometry.outputWidth }
    /// Elements of a token's queries before their content meets the up-projections of keys.
    package var latentQueries: Int { latent.map { heads * $0.queryWidth } ?? 0 }
    /// Whether latents are too wide for prefill attention: then each token of a prompt is read as a sequence of its own.
    package var readsPromptsByToken: Bool { geometry.outputWidth > 256 }
}
