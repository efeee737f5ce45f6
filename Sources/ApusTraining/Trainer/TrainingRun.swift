import ApusDistributed
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
    /// What there is to learn from: "8000 pairs to train on, 400 held out".
    public let summary: String
    /// What people should know of the data.
    public let notes: [String]
    /// Of several replicas the first writes logs and checkpoints.
    private let log: RunLog?
    private let events: EventLog?

    /// Checks everything, prepares data where the recipe asks for it, and makes the model or reads the checkpoint.
    /// - Parameters:
    ///   - task: what turns the recipe into data and an objective; nil for those of this module, `pretrain` and `sft`.
    ///   - replicas: ranks that train the same model, each on its share of every batch; nil for one process. The first rank
    ///     must be through with its folder before the others begin.
    ///   - tensorParallel: ranks that a model is cut over; nil for none.
    ///   - keepsLast: whether there is a checkpoint after the last step.
    ///   - backend: computes where the recipe's device is the CPU.
    ///   - gpu: of this rank, where ranks train on GPUs.
    ///   - progress: told how far the preparation of data is.
    /// - Throws: ``TrainerError``, ``RecipeError``, and errors of data, models and files; nothing is trained by then.
    public init(
        _ recipe: Recipe, start: Start, task: (any TrainingTask)? = nil,
        replicas: (any Communicator)? = nil, tensorParallel: (any Communicator)? = nil, keepsLast: Bool = true,
        on backend: CPUBackend = .shared, gpu: CUDABackend? = nil,
        progress: @escaping (DataPreparation.Progress) -> Void = { _ in }
    ) throws {
        self.recipe = recipe
        let size = (replicas?.size ?? 1) * (tensorParallel?.size ?? 1)
        if size > 1, !recipe.resolvedTask.isCrossEntropy {
            throw TrainerError.replicas(task: recipe.resolvedTask.rawValue, ranks: size)
        }
        let device = try recipe.backend(cpu: backend, gpu: gpu, ranks: size)
        let isFirst = replicas?.rank ?? 0 == 0 && tensorParallel?.rank ?? 0 == 0
        let folder = recipe.training.output
        let files = FileManager.default
        let checkpoints = "\(folder)/checkpoints"
        let existing = CheckpointStore.entries(in: checkpoints).last
        if let existing, start == .fresh, isFirst {
            throw TrainerError.existingRun(folder: folder, step: existing.step)
        }
        if let existing, start == .resume { try Self.checkResume(recipe, existing) }
        try files.createDirectory(atPath: folder, withIntermediateDirectories: true)
        let operations = DifferentiableOperations(
            on: device, compute: recipe.training.compute == .bf16 ? .bf16 : .f32)
        let context = try TaskContext(
            recipe, backend: backend, operations: operations, share: replicas.map { BatchShare(of: $0) } ?? .whole,
            progress: progress)
        let materials = try Self.task(recipe, task).prepare(context)
        tokenizer = materials.tokenizer
        summary = materials.summary
        notes = materials.notes
        let configuration = try Self.configuration(context, materials)

        if start == .restart, isFirst { try? files.removeItem(atPath: checkpoints) }
        let store =
            isFirst
            ? try CheckpointStore(
                folder: checkpoints, keep: recipe.training.keepCheckpoints,
                extraFiles: [("recipe.yaml", Array(recipe.yaml.utf8))] + materials.files) : nil
        var settings = recipe.trainerSettings(steps: materials.steps, patience: materials.patience)
        settings.keepsLast = keepsLast
        resumedFrom = start == .resume ? CheckpointStore.entries(in: checkpoints).last : nil
        func ranks(_ configuration: DecoderConfiguration) throws -> TensorParallel? {
            try tensorParallel.map { try TensorParallel(configuration, over: $0) }
        }
        if let entry = resumedFrom {
            trainer = try Trainer(
                resuming: entry, objective: materials.objective, settings: settings, store: store, replicas: replicas,
                ranks: ranks, on: operations)
            guard trainer.model.configuration.tensorRoles == configuration.tensorRoles else {
                throw TrainerError.checkpoint(
                    path: entry.path, problem: "its weights are not those of the recipe's model")
            }
        } else {
            let model =
                if let start = context.start {
                    try TrainableDecoder(
                        start, as: configuration, seed: UInt64(recipe.training.seed), ranks: ranks(configuration),
                        on: operations)
                } else {
                    try TrainableDecoder(
                        initializing: configuration, seed: UInt64(recipe.training.seed),
                        deviation: Float(recipe.model.initStd), ranks: ranks(configuration), on: operations)
                }
            trainer = Trainer(
                model: model, objective: try materials.objective(model), settings: settings, store: store,
                replicas: replicas)
        }
        trainer.model.checkpointsLayers = recipe.training.gradientCheckpointing
        guard isFirst else {
            (log, events) = (nil, nil)
            return
        }
        let file = try AtomicFile(path: "\(folder)/recipe.yaml")
        try file.write(Array(recipe.yaml.utf8))
        try file.publish()
        log = try RunLog(path: "\(folder)/log.jsonl", resumingAfter: resumedFrom?.step)
        events = try EventLog(folder: folder, resumingAfter: resumedFrom?.step)
    }

    private static func task(_ recipe: Recipe, _ task: (any TrainingTask)?) throws -> any TrainingTask {
        if let task { return task }
        guard recipe.resolvedTask.isCrossEntropy else { throw TrainerError.task(recipe.resolvedTask.rawValue) }
        return CrossEntropyTask()
    }

    /// What the model is: that of the checkpoint it starts from, or what the recipe describes, as the task changes it.
    private static func configuration(
        _ context: TaskContext, _ materials: TaskMaterials
    ) throws -> DecoderConfiguration {
        let recipe = context.recipe
        let needed = materials.vocabulary
        let stated = context.start?.configuration.vocabularySize ?? recipe.model.vocabulary ?? needed
        if stated < needed {
            throw TrainerError.vocabulary(stated: stated, needed: needed, folder: materials.tokenizerSource)
        }
        var configuration: DecoderConfiguration
        if let start = context.start {
            configuration = start.configuration
        } else {
            configuration = try recipe.model.decoderConfiguration(
                vocabulary: needed, maxPositions: recipe.data.sequenceLength)
            if let end = materials.endToken { configuration.eosTokens = [Int(end)] }
        }
        try materials.configure(&configuration)
        return configuration
    }

    /// Trains to the end, or until `shouldStop`, and writes the logs.
    /// - Parameters:
    ///   - shouldStop: asked after every step; a checkpoint is written then.
    ///   - report: told everything that happens, every step included.
    public func run(
        shouldStop: () -> Bool = { false }, report: (Trainer.Event) throws -> Void
    ) async throws {
        try await trainer.run(shouldStop: shouldStop) { event in
            try record(event)
            try report(event)
        }
    }

    private func record(_ event: Trainer.Event) throws {
        guard let log, let events else { return }
        switch event {
        case .step(let step):
            guard step.step % recipe.training.logEvery == 0 || step.step == 1 || step.step == trainer.settings.steps
            else { return }
            let rate = Double(step.tokens) / max(step.seconds, 1e-9)
            var entry: JSONObject = [
                "step": .integer(Int64(step.step)), "loss": .double(step.loss),
                "learning_rate": .double(step.learningRate), "gradient_norm": .double(step.gradientNorm),
                "tokens": .integer(Int64(step.totalTokens)), "tokens_per_second": .double(rate),
            ]
            for metric in step.metrics { entry[metric.name] = .double(metric.value) }
            try log.append(entry)
            try events.append(
                [
                    ("train/loss", step.loss), ("train/learning_rate", step.learningRate),
                    ("train/gradient_norm", step.gradientNorm), ("train/tokens_per_second", rate),
                ] + step.metrics.map { ("train/\($0.name)", $0.value) }, step: step.step)
        case .evaluation(let step, let evaluation):
            var entry: JSONObject = ["step": .integer(Int64(step))]
            for metric in evaluation.metrics { entry["validation_\(metric.name)"] = .double(metric.value) }
            try log.append(entry)
            try events.append(evaluation.metrics.map { ("validation/\($0.name)", $0.value) }, step: step)
        case .checkpoint, .best, .ended: break
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
