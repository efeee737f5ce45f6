import ApusModels

/// The sizes of an engine, from its configuration and model.
struct EngineSizes {
    let context: Int
    /// Of the cache; on a GPU nil where its memory decides.
    let pages: Int?
    let stepTokens: Int
    /// Steps of more tokens round the activations of some weights.
    let exactTokens: Int

    init(_ model: LanguageModel, _ configuration: EngineConfiguration) throws {
        func check(_ name: String, _ found: Int, _ range: ClosedRange<Int>) throws(EngineError) {
            guard !range.contains(found) else { return }
            throw EngineError.outOfRange(
                name: name, expected: "an integer from \(range.lowerBound) to \(range.upperBound)", found: found)
        }
        let limit = model.configuration.maxPositions
        context = configuration.context ?? min(limit, 4096)
        try check("context", context, 2...max(limit, 2))
        try check("page size", configuration.pageSize, 1...65536)
        try check("sequences at once", configuration.maxSequences, 1...65536)
        try check("tokens of a step", configuration.stepTokens, configuration.maxSequences...1 << 20)
        try check("prompt tokens beside decoding", configuration.promptTokensBesideDecoding, 1...1 << 20)
        try check("drafted tokens", configuration.maxDrafts, 1...64)
        if configuration.device == .cpu {
            guard model.hasWeights else {
                throw EngineError.unsupported("a model that was loaded without its weights: not on the CPU")
            }
            exactTokens = model.decoder.exactRows
        } else {
            exactTokens = Int.max
            try Self.checkOnGPU(model, configuration)
        }
        if configuration.isBatchInvariant {
            if case .longRope(let short, let long, _, _) = model.configuration.rotary.scaling, short != long {
                throw EngineError.unsupported(
                    "batch-invariant mode: LongRoPE rotates a token by the length of its sequence at the end of its step"
                )
            }
            stepTokens = min(configuration.stepTokens, exactTokens)
            try check("sequences at once, batch-invariant", configuration.maxSequences, 1...stepTokens)
        } else {
            stepTokens = configuration.stepTokens
        }
        try check("queued requests", configuration.maxQueuedRequests, 1...Int.max)
        try check("queued tokens", configuration.maxQueuedTokens, 1...Int.max)
        let size = configuration.pageSize
        let needed = (context + size - 1) / size
        if let tokens = configuration.cacheTokens {
            try check("tokens of the cache", tokens, context...1 << 40)
            pages = (tokens + size - 1) / size
        } else if configuration.device != .cpu {
            pages = nil
        } else {
            let bytes = try model.decoder.cacheBytesPerPage(pageSize: size, type: configuration.cacheType)
            pages = max(min((1 << 30) / bytes, configuration.maxSequences * needed), needed)
        }
    }

    /// What engines on a GPU do not do.
    private static func checkOnGPU(_ model: LanguageModel, _ configuration: EngineConfiguration) throws {
        func refuse(_ what: String) throws(EngineError) {
            throw .unsupported("\(what): not on \(configuration.device)")
        }
        if configuration.pageSize != GPUDecoder.pageSize {
            try refuse("pages of \(configuration.pageSize) tokens instead of \(GPUDecoder.pageSize)")
        }
        if let type = configuration.cacheType, type != .bf16 { try refuse("a cache in \(type) instead of bf16") }
        if configuration.isBatchInvariant { try refuse("batch-invariant mode") }
        if case .draftModel = configuration.speculation { try refuse("a draft model") }
        try GPUDecoder.require(model.configuration, part: model.tensorParallel?.sharding)
    }

    /// Checks token ids that come from outside.
    static func check(
        _ prompt: [Int32], context: Int, _ model: DecoderConfiguration, generates: Bool
    ) throws(EngineError) {
        guard !prompt.isEmpty else { throw EngineError.prompt(.emptyPrompt) }
        guard prompt.count + (generates ? 1 : 0) <= context else {
            throw EngineError.prompt(.promptTooLong(tokens: prompt.count, context: context))
        }
        let vocabulary = model.vocabularySize
        if let unknown = prompt.first(where: { $0 < 0 || Int($0) >= vocabulary }) {
            throw EngineError.prompt(.unknownToken(Int(unknown), vocabulary: vocabulary))
        }
    }
}
