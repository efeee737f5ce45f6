import ApusModels
import ApusTensor
import ApusText

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

/// A training run in a folder: what `apus train` does.
///
/// The folder holds `recipe.yaml` as it was understood, `checkpoints/`, `log.jsonl`, TensorBoard's event files, and `data/`
/// where the recipe names text instead of a prepared folder.
public final class TrainingRun {
    /// What to do with a folder that has checkpoints.
    public enum Start: Sendable {
        /// Refuse it.
        case fresh
        /// Go on from the newest; start where there is none.
        case resume
        /// Remove them.
        case restart
    }

    /// The recipe, as given.
    public let recipe: Recipe
    /// The run's folder.
    public var folder: String { recipe.training.output }
    /// Does the work.
    public let trainer: Trainer
    /// Turns text into the model's tokens.
    public let tokenizer: Tokenizer
    /// The checkpoint it goes on from.
    public let resumedFrom: CheckpointStore.Entry?
    /// Tokens there are to train on, and held out.
    public let tokenCounts: (train: Int, validation: Int)
    /// What people should know of the data.
    public let notes: [String]
    private let log: RunLog
    private let events: EventLog

    /// Checks everything, prepares data where the recipe asks for it, and makes the model or reads the checkpoint.
    /// - Parameter progress: told how far the preparation of data is.
    /// - Throws: ``TrainerError``, ``RecipeError``, and errors of data, models and files; nothing is trained by then.
    public init(
        _ recipe: Recipe, start: Start, on backend: CPUBackend = .shared,
        progress: (DataPreparation.Progress) -> Void = { _ in }
    ) throws {
        self.recipe = recipe
        let folder = recipe.training.output
        let files = FileManager.default
        let checkpoints = "\(folder)/checkpoints"
        let existing = CheckpointStore.entries(in: checkpoints).last
        if let existing, start == .fresh { throw TrainerError.existingRun(folder: folder, step: existing.step) }
        if let existing, start == .resume { try Self.checkResume(recipe, existing) }
        try files.createDirectory(atPath: folder, withIntermediateDirectories: true)
        let materials = try RunMaterials(recipe, backend: backend, progress: progress)
        tokenizer = materials.tokenizer
        tokenCounts = materials.tokenCounts
        notes = materials.notes
        let configuration = try Self.configuration(recipe, materials)
        let operations = DifferentiableOperations(
            on: backend, compute: recipe.training.compute == .bf16 ? .bf16 : .f32)

        if start == .restart { try? files.removeItem(atPath: checkpoints) }
        let store = try CheckpointStore(
            folder: checkpoints, keep: recipe.training.keepCheckpoints,
            extraFiles: [("recipe.yaml", Array(recipe.yaml.utf8))] + materials.files)
        let settings = recipe.trainerSettings
        resumedFrom = start == .resume ? store.latest : nil
        if let entry = resumedFrom {
            let (model, optimizer, recentLoss) = try store.load(entry, settings: settings.optimizer, on: operations)
            guard model.configuration.tensorRoles == configuration.tensorRoles else {
                throw TrainerError.checkpoint(
                    path: entry.path, problem: "its weights are not those of the recipe's model")
            }
            trainer = Trainer(
                model: model, data: materials.batches, settings: settings, store: store, optimizer: optimizer,
                recentLoss: recentLoss)
        } else {
            let model =
                if let start = materials.start {
                    try TrainableDecoder(start, on: operations)
                } else {
                    try TrainableDecoder(
                        initializing: configuration, seed: UInt64(recipe.training.seed),
                        deviation: Float(recipe.model.initStd), on: operations)
                }
            trainer = Trainer(model: model, data: materials.batches, settings: settings, store: store)
        }
        trainer.model.checkpointsLayers = recipe.training.gradientCheckpointing
        let file = try AtomicFile(path: "\(folder)/recipe.yaml")
        try file.write(Array(recipe.yaml.utf8))
        try file.publish()
        log = try RunLog(path: "\(folder)/log.jsonl", resumingAfter: resumedFrom?.step)
        events = try EventLog(folder: folder, resumingAfter: resumedFrom?.step)
    }

    /// What the model is: that of the checkpoint it starts from, or what the recipe describes.
    private static func configuration(_ recipe: Recipe, _ materials: RunMaterials) throws -> DecoderConfiguration {
        let needed = materials.vocabulary
        let stated = materials.start?.configuration.vocabularySize ?? recipe.model.vocabulary ?? needed
        if stated < needed {
            throw TrainerError.vocabulary(stated: stated, needed: needed, folder: materials.tokenizerSource)
        }
        if let start = materials.start { return start.configuration }
        var configuration = try recipe.model.decoderConfiguration(
            vocabulary: needed, maxPositions: recipe.data.sequenceLength)
        if let end = materials.endToken { configuration.eosTokens = [Int(end)] }
        return configuration
    }

    /// Trains to the end, or until `shouldStop`, and writes the logs.
    /// - Parameters:
    ///   - shouldStop: asked after every step; a checkpoint is written then.
    ///   - report: told everything that happens, every step included.
    public func run(shouldStop: () -> Bool = { false }, report: (Trainer.Event) throws -> Void) throws {
        try trainer.run(shouldStop: shouldStop) { event in
            try record(event)
            try report(event)
        }
    }

    private func record(_ event: Trainer.Event) throws {
        switch event {
        case .step(let step):
            guard step.step % recipe.training.logEvery == 0 || step.step == 1 || step.step == trainer.settings.steps
            else { return }
            let rate = Double(step.tokens) / max(step.seconds, 1e-9)
            try log.append([
                "step": .integer(Int64(step.step)), "loss": .double(step.loss),
                "learning_rate": .double(step.learningRate), "gradient_norm": .double(step.gradientNorm),
                "tokens": .integer(Int64(step.step * recipe.tokensPerStep)), "tokens_per_second": .double(rate),
            ])
            try events.append(
                [
                    ("train/loss", step.loss), ("train/learning_rate", step.learningRate),
                    ("train/gradient_norm", step.gradientNorm), ("train/tokens_per_second", rate),
                ], step: step.step)
        case .evaluation(let step, let loss, _):
            try log.append(["step": .integer(Int64(step)), "validation_loss": .double(loss)])
            try events.append([("validation/loss", loss)], step: step)
        case .checkpoint: break
        }
    }

    /// Holds the recipe against the one that the checkpoint was written under.
    private static func checkResume(_ recipe: Recipe, _ entry: CheckpointStore.Entry) throws {
        let before = try Recipe.read("\(entry.path)/recipe.yaml")
        let impossible = before.changes(to: recipe).filter { $0.effect == .impossible }
        if !impossible.isEmpty {
            throw TrainerError.changedRecipe(path: entry.path, changes: impossible.map(\.description))
        }
    }

    /// Changes of the recipe since the checkpoint that is resumed, which make the run another one from here on.
    public func changesSinceCheckpoint() throws -> [RecipeChange] {
        guard let resumedFrom else { return [] }
        return try Recipe.read("\(resumedFrom.path)/recipe.yaml").changes(to: recipe)
            .filter { $0.effect == .trajectory }
    }
}
