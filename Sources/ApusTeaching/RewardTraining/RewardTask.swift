import ApusModels
import ApusText
import ApusTraining

/// A reward model from preferences: the task `reward`.
///
/// The run starts from a language model, whose head makes room for a score, or from a reward model.
public struct RewardTask: TrainingTask {
    /// Evaluations without a better one after which a run ends.
    private static let patience = 3

    /// The task.
    public init() {}

    /// Reads the preferences and turns them into tokens.
    /// - Throws: ``TeachingDataError``, ``RewardError/notARewardModel(path:found:)``, errors of files.
    public func prepare(_ context: TaskContext) throws -> TaskMaterials {
        let recipe = context.recipe
        guard let start = context.start else { throw TrainerError.noTokenizer }
        if case .score(let labels) = start.configuration.head, labels != 1 {
            throw RewardError.notARewardModel(path: recipe.model.from ?? start.name, found: "\(labels) labels")
        }
        let (tokenizer, source) = try context.tokenizer()
        let encoder = RewardEncoder(tokenizer: tokenizer, chatTemplate: try context.chatTemplate())
        let mix = try PreferenceMix(recipe)
        let longest = min(recipe.data.sequenceLength, start.configuration.maxPositions)
        let encoded = try [mix.train, mix.heldOut].map { try EncodedPair.encode($0, encoder, longest: longest) }
        let (train, heldOut) = (encoded[0].compactMap { $0 }, encoded[1].compactMap { $0 })
        guard !train.isEmpty else {
            throw TeachingDataError.tooLong(files: recipe.reward.onPolicy + recipe.reward.offPolicy, longest: longest)
        }
        let omitted = mix.train.count + mix.heldOut.count - train.count - heldOut.count
        let endings = Set((train + heldOut).flatMap { [$0.chosen.last!, $0.rejected.last!] })
        let pairsPerStep = recipe.data.batchSize * recipe.data.accumulation
        return TaskMaterials(
            tokenizer: tokenizer, tokenizerSource: source, vocabulary: tokenizer.idBound,
            files: context.companionFiles(of: source),
            steps: (train.count * recipe.reward.epochs + pairsPerStep - 1) / pairsPerStep,
            summary: "\(train.count) pairs to train on, \(heldOut.count) held out",
            notes: [
                "\(mix.onPolicy) of \(mix.train.count + (recipe.reward.validation.isEmpty ? mix.heldOut.count : 0)) pairs are "
                    + "on-policy"
                    + (omitted > 0 ? "; \(omitted) pairs with a side longer than \(longest) tokens are left out" : "")
            ],
            patience: Self.patience,
            configure: { configuration in
                configuration.head = .score(labels: 1)
                configuration.tiesEmbeddings = false
                configuration.padToken = ScorePadding.token(configuration, tokenizer, endings: endings)
            }
        ) { PreferenceObjective($0, train: train, heldOut: heldOut, recipe: recipe) }
    }
}
