import ApusModels
import ApusTensor
import ApusText

extension LanguageModel {
    /// Loads a model from a path.
    /// - Parameters:
    ///   - path: a GGUF file, a safetensors file beside its config.json, or a Hugging Face directory.
    ///   - acceptsScoreHead: whether a model with a score head instead of a language-model head will do.
    ///   - loadsWeights: false for an engine on a GPU, which loads them there.
    ///   - ranks: makes the ranks that the model is cut over, from its checkpoint; nil for a process that takes all of it.
    ///   - progress: called with the share of the work done.
    /// - Throws: ``ModelFileError``, ``TokenizerError``, ``TemplateError``, ``ModelError``.
    public static func load(
        path: String, backend: any Backend = CPUBackend.shared, acceptsScoreHead: Bool = false,
        loadsWeights: Bool = true, ranks: (any Checkpoint) throws -> TensorParallel? = { _ in nil },
        progress: (Double) -> Void = { _ in }
    ) throws -> LanguageModel {
        let checkpoint = try Checkpoints.open(path)
        if case .score = checkpoint.configuration.head, !acceptsScoreHead {
            throw GenerationError.noLanguageModelHead("a score head in \(path)")
        }
        let tokenizer = try checkpoint.loadTokenizer()
        let vocabulary = checkpoint.configuration.vocabularySize
        guard tokenizer.idBound <= vocabulary else {
            throw ModelError.vocabularyMismatch(tokenizer: tokenizer.idBound, model: vocabulary)
        }
        let template = try checkpoint.chatTemplate().map { try ChatTemplate(source: $0) }
        let ranks = try ranks(checkpoint)
        let decoder =
            loadsWeights
            ? try Decoder(checkpoint: checkpoint, backend: backend, ranks: ranks, progress: progress) : nil
        return LanguageModel(
            configuration: checkpoint.configuration, backend: backend, decoder: decoder, tokenizer: tokenizer,
            chatTemplate: template, samplingDefaults: SamplingParameters(checkpoint.generationDefaults),
            endTokens: tokensThatEnd(checkpoint, tokenizer), path: path, tensorParallel: ranks)
    }

    /// Tokens that end an answer: the generation configuration's, the model's, and the tokenizer's own.
    private static func tokensThatEnd(_ checkpoint: any Checkpoint, _ tokenizer: Tokenizer) -> Set<Int32> {
        var result = Set(checkpoint.configuration.eosTokens.map { Int32(clamping: $0) })
        result.formUnion(checkpoint.generationDefaults.eosTokens.map { Int32(clamping: $0) })
        if let end = tokenizer.namedTokens.eos { result.insert(end) }
        return result
    }
}

extension SamplingParameters {
    /// A model's recommendations; greedy where it gives none or says not to sample.
    public init(_ defaults: GenerationDefaults) {
        self.init()
        if let repetitionPenalty = defaults.repetitionPenalty { self.repetitionPenalty = repetitionPenalty }
        let samples = defaults.samples ?? (defaults.temperature != nil)
        guard samples else { return }
        temperature = defaults.temperature ?? 1
        if let topK = defaults.topK { self.topK = max(topK, 0) }
        if let topP = defaults.topP, topP > 0 { self.topP = topP }
        if let minP = defaults.minP { self.minP = minP }
    }
}
