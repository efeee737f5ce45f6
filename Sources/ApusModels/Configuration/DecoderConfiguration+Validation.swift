import ApusAttention

extension DecoderConfiguration {
    // Bounds keep every product of extents below 2^63 and every array that depends on a number alone small; real models
    // stay far below them.
    static let maximumWidth = 1 << 20
    static let maximumLayers = 1 << 12
    static let maximumPositions = 1 << 31

    /// Throws ``ModelFileError/malformed(file:place:expected:found:)`` on the first number that no model can have;
    /// `source` names the file the configuration came from.
    public func validate(source: String) throws {
        func check(_ name: String, _ value: Int, _ range: ClosedRange<Int>) throws {
            try require(range.contains(value), source, name, "\(range.lowerBound) to \(range.upperBound)", value)
        }
        try check("vocabulary size", vocabularySize, 1...Int(Int32.max))
        try check("hidden size", hiddenSize, 1...Self.maximumWidth)
        try check("layer count", layerCount, 1...Self.maximumLayers)
        try check("query heads", queryHeads, 1...Self.maximumWidth)
        try check("KV heads", kvHeads, 1...queryHeads)
        try require(queryHeads % kvHeads == 0, source, "KV heads", "a divisor of \(queryHeads) query heads", kvHeads)
        try check("head width", headWidth, 1...Self.maximumWidth)
        try check("query heads times head width", queryHeads * headWidth, 1...Self.maximumWidth)
        try check("feed-forward width", feedForwardWidth, 1...(4 * Self.maximumWidth))
        try check("maximum positions", maxPositions, 1...Self.maximumPositions)
        try require(
            normEpsilon >= 0 && normEpsilon < 1, source, "norm epsilon", "a number from 0 to below 1", normEpsilon)
        try require(windows.count == layerCount, source, "windows", "one per layer (\(layerCount))", windows.count)
        for window in windows {
            if let window { try check("sliding window", window, 1...Self.maximumPositions) }
        }
        if case .score(let labels) = head { try check("labels", labels, 1...Self.maximumWidth) }
        if fusedQKV != nil {
            try require(kvHeads == queryHeads, source, "KV heads", "\(queryHeads), as fused projections need", kvHeads)
        }
        try validateAttention(source: source)
        try validateExperts(source: source)
        for (name, scale) in [
            ("attention scale factor", attentionScaleFactor), ("embedding scale", embeddingScale),
            ("residual scale", residualScale), ("logit scale", logitScale),
        ] {
            try require(scale > 0 && scale < 1e30, source, name, "a number above 0 and below 1e30", scale)
        }
        try rotary.validate(source: source, headWidth: rotaryLimit)
        try slidingRotary?.validate(source: source, headWidth: rotaryLimit)
    }

    /// The widest rotary embedding that attention can have.
    private var rotaryLimit: Int { if case .latent(let latent) = attention { latent.rotaryWidth } else { headWidth } }

    private func validateAttention(source: String) throws {
        func check(_ name: String, _ value: Int, _ range: ClosedRange<Int>) throws {
            try require(range.contains(value), source, name, "\(range.lowerBound) to \(range.upperBound)", value)
        }
        switch attention {
        case .grouped: return
        case .tied(let rotaryWidth):
            try require(
                rotaryWidth >= 2 && rotaryWidth < headWidth, source, "RoPE width",
                "2 to below the head width \(headWidth)", rotaryWidth)
            try require(
                rotary.width == rotaryWidth, source, "rotary width", "the RoPE width \(rotaryWidth)", rotary.width)
        case .latent(let latent):
            let limit = Self.maximumWidth
            try check("latent heads", latent.latentHeads, 1...min(queryHeads, 1024))
            try require(
                queryHeads % latent.latentHeads == 0, source, "latent heads", "a divisor of \(queryHeads) query heads",
                latent.latentHeads)
            try check("latent width", latent.latentWidth, 1...limit / latent.latentHeads)
            try check("RoPE width", latent.rotaryWidth, 2...limit)
            try check("content width", latent.contentWidth, 1...limit)
            try check("value width", latent.valueWidth, 1...limit)
            try check("query heads times query width", queryHeads * latent.queryWidth, 1...limit)
            try check("query heads times value width", queryHeads * latent.valueWidth, 1...limit)
            try require(
                rotary.width == latent.rotaryWidth, source, "rotary width", "the RoPE width \(latent.rotaryWidth)",
                rotary.width)
            try require(
                latent.normEpsilon >= 0 && latent.normEpsilon < 1, source, "latent norm epsilon",
                "a number from 0 to below 1", latent.normEpsilon)
            if let rank = latent.queryRank {
                try check("query rank", rank, 1...limit)
                try require(
                    rank % latent.queryLatents == 0, source, "query rank", "a multiple of \(latent.queryLatents)", rank)
            } else {
                try require(!latent.splitsQueryLatent, source, "split query latent", "a query rank", "none")
            }
        }
        try require(
            fusedQKV == nil && !queryKeyNorm, source, "attention", "no fused projection, no q/k norm", "\(variant)")
        try require(windows.allSatisfy { $0 == nil }, source, "sliding window", "none with \(variant)", "one")
    }

    private func validateExperts(source: String) throws {
        guard let experts else { return }
        func check(_ name: String, _ value: Int, _ range: ClosedRange<Int>) throws {
            try require(range.contains(value), source, name, "\(range.lowerBound) to \(range.upperBound)", value)
        }
        try check("routed experts", experts.count, 1...max((1 << 20) / layerCount, 1))
        try check("experts per token", experts.expertsPerToken, 1...experts.count)
        try check("expert width", experts.width, 1...Self.maximumWidth)
        try check("shared expert width", experts.sharedWidth, 0...(4 * Self.maximumWidth))
        try check("dense layers", experts.denseLayers, 0...Self.maximumLayers)
        try require(
            experts.weightScale > 0 && experts.weightScale < 1e30, source, "routed scaling factor", "above 0",
            "\(experts.weightScale)")
        try require(isGated && !feedForwardBias, source, "experts", "gated feed-forwards without biases", "others")
        try require(activation == .silu, source, "activation of experts", "silu", activation.rawValue)
        try require(residualScale == 1, source, "residual scale with experts", "1", residualScale)
        switch experts.selection {
        case .greedy: break
        case .groupLimited(let groups, let kept), .corrected(let groups, let kept):
            try check("expert groups", groups, 1...experts.count)
            try require(experts.count % groups == 0, source, "expert groups", "a divisor of \(experts.count)", groups)
            try check("expert groups kept", kept, 1...groups)
            try require(
                kept * (experts.count / groups) >= experts.expertsPerToken, source, "expert groups kept",
                "enough for \(experts.expertsPerToken) experts", kept)
        }
    }

    /// Drops token ids outside the vocabulary: no model reads or produces them.
    mutating func dropForeignTokens() {
        let known = 0..<vocabularySize
        bosToken = bosToken.flatMap { known.contains($0) ? $0 : nil }
        padToken = padToken.flatMap { known.contains($0) ? $0 : nil }
        eosTokens = eosTokens.filter(known.contains)
    }
}

extension RotaryConfiguration {
    func validate(source: String, headWidth: Int) throws {
        try require(
            width >= 2 && width <= headWidth && width % 2 == 0, source, "rotary width",
            "an even number from 2 to the head width \(headWidth)", width)
        func positive(_ name: String, _ value: Double) throws {
            try require(value > 0 && value < 1e30, source, name, "a number above 0 and below 1e30", value)
        }
        try require(theta > 1 && theta < 1e30, source, "rotary theta", "a number above 1 and below 1e30", theta)
        switch scaling {
        case .none: break
        case .linear(let factor): try positive("rotary scaling factor", factor)
        case .llama3(let factor, let low, let high, let original):
            try positive("rotary scaling factor", factor)
            try positive("low_freq_factor", low)
            try positive("high_freq_factor", high)
            try require(low < high, source, "low_freq_factor", "a number below high_freq_factor \(high)", low)
            try positive("original context", Double(original))
        case .yarn(let factor, let betaFast, let betaSlow, let original, let attentionFactor):
            try positive("rotary scaling factor", factor)
            try positive("beta_fast", betaFast)
            try positive("beta_slow", betaSlow)
            try positive("original context", Double(original))
            try positive("attention factor", attentionFactor)
        case .longRope(let short, let long, let original, let attentionFactor):
            for factors in [short, long] {
                try require(
                    factors.count == width / 2, source, "short_factor, long_factor", "\(width / 2)", factors.count)
                for factor in factors { try positive("rotary frequency factor", Double(factor)) }
            }
            try positive("original context", Double(original))
            try positive("attention factor", attentionFactor)
        case .perFrequency(let factors):
            try require(factors.count == width / 2, source, "rotary frequency factors", "\(width / 2)", factors.count)
            for factor in factors { try positive("rotary frequency factor", Double(factor)) }
        }
    }
}

private func require(
    _ condition: Bool, _ source: String, _ name: String, _ expected: String, _ found: some CustomStringConvertible
) throws {
    guard condition else {
        throw ModelFileError.malformed(file: source, place: name, expected: expected, found: found.description)
    }
}
