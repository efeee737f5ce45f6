import ApusAttention

/// The widths of a model that the GPU's decoder serves: grouped attention (MHA, GQA, MQA), RMSNorm, SwiGLU, one after the
/// other; with biases, norms of queries and keys and sliding windows where the model has them.
struct GPUDecoderShape: Sendable, Hashable {
    let layers: Int, width: Int, heads: Int, groups: Int, headWidth: Int, inner: Int, vocabulary: Int

    /// Widths of a head whose values the matrix instructions of prefill attention have.
    private static let headWidths: Set = [16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 256]

    init(_ model: DecoderConfiguration) throws(GPUDecoderError) {
        func require(
            _ condition: Bool, _ name: String, _ found: @autoclosure () -> Any, _ expected: String
        ) throws(GPUDecoderError) {
            guard condition else { throw .unsupported(name: name, found: "\(found())", expected: expected) }
        }
        try require(model.attention == .grouped, "attention", model.variant.rawValue, "mha, gqa or mqa")
        try require(model.head == .languageModel, "head", model.head, "a language model's")
        try require(model.normKind == .rms, "norm", model.normKind.rawValue, "rms")
        try require(
            model.isGated && model.activation == .silu, "activation", model.activation.rawValue, "a gate with silu")
        try require(!model.parallelResidual, "residual", "parallel", "one half after the other")
        try require(model.experts == nil, "feed-forward", "experts", "a dense one")
        try require(model.residualScale == 1, "residual scale", model.residualScale, "1")
        try require(
            Self.headWidths.contains(model.headWidth), "head width", model.headWidth,
            "one of \(Self.headWidths.sorted())")
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
        layers = model.layerCount
        width = model.hiddenSize
        heads = model.queryHeads
        groups = model.kvHeads
        headWidth = model.headWidth
        inner = model.feedForwardWidth
        vocabulary = model.vocabularySize
        let hasWindow = model.windows.contains { $0 != nil }
        try require(
            !hasWindow || heads / groups <= 8, "sliding windows", "\(heads / groups) heads to a group", "at most 8")
    }

    /// Elements of queries, keys and values of a token.
    var projected: Int { (heads + 2 * groups) * headWidth }
    /// Elements of what a token's heads give.
    var attended: Int { heads * headWidth }
    /// Bytes of the weights in bf16; a head of its own counts.
    func weightBytes(tied: Bool) -> Int {
        let layer = width * projected + attended * width + 3 * width * inner
        return 2 * (layers * layer + (tied ? 1 : 2) * vocabulary * width)
    }
}
