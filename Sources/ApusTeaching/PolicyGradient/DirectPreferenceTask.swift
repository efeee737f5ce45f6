import ApusText
import ApusTraining

/// DPO out of a recipe.
public struct DirectPreferenceTask: TrainingTask {
    /// The task.
    public init() {}

    /// Reads pairs and opens the reference.
    /// - Throws: ``PolicyGradientError``, ``TeachingDataError``, errors of files.
    public func prepare(_ context: TaskContext) throws -> TaskMaterials {
        let recipe = context.recipe
        let settings = recipe.policyGradient
        guard let start = context.start else {
            throw PolicyGradientError.missing(key: "model.from", task: "dpo", needed: "a model to start from")
        }
        let (tokenizer, source) = try context.tokenizer()
        let reader = PromptReader(
            tokenizer: tokenizer, template: try context.chatTemplate(), maxTokens: settings.maxPromptTokens)
        var leftOut = 0
        func read(_ files: [String]) throws -> [PolicyPair] {
            try files.flatMap { try PreferencePair.read($0) }.compactMap { pair in
                let result = PolicyPair(
                    prompt: try reader.tokens(pair.prompt), chosen: try reader.answer(pair.chosen, to: pair.prompt),
                    rejected: try reader.answer(pair.rejected, to: pair.prompt))
                let longest = max(result.chosen.count, result.rejected.count)
                let fits =
                    !result.prompt.isEmpty && result.prompt.count <= settings.maxPromptTokens
                    && longest <= settings.maxTokens && !result.chosen.isEmpty && !result.rejected.isEmpty
                    && result.prompt.count + longest <= start.configuration.maxPositions
                if !fits { leftOut += 1 }
                return fits ? result : nil
            }
        }
        var train = try read(settings.pairs)
        var held = try read(settings.validationPairs)
        if settings.validationPairs.isEmpty {
            (train, held) = HeldOut.split(train, fraction: settings.validationFraction, seed: recipe.training.seed)
        }
        guard !train.isEmpty else {
            throw PolicyGradientError.noPrompts(
                files: settings.pairs,
                problem:
                    "expected at least one pair with a prompt of at most \(settings.maxPromptTokens) and answers of at most "
                    + "\(settings.maxTokens) tokens, found none")
        }
        let reference = try PolicyReference.open(settings.reference, start: start, tokenizer: tokenizer)
        return TaskMaterials(
            tokenizer: tokenizer, tokenizerSource: source, vocabulary: tokenizer.idBound,
            endToken: tokenizer.namedTokens.eos, files: context.companionFiles(of: source),
            summary: "\(train.count) pairs to train on, \(held.count) held out",
            notes: leftOut > 0 ? ["\(leftOut) pairs that are too long are left out"] : []
        ) { [train, held] model in
            DirectPreferenceObjective(
                model, reference: try PolicyReference.model(reference, on: model.operations), train: train,
                heldOut: held, settings: settings, batchSize: recipe.data.batchSize * recipe.data.accumulation,
                seed: UInt64(recipe.training.seed))
        }
    }
}
