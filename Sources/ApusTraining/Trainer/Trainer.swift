import ApusDistributed
import ApusModels
import ApusTensor

/// Trains a decoder for an objective: gradients, clipping, AdamW, a schedule; checkpoints from which a run goes on bit for bit.
///
/// ```swift
/// let trainer = Trainer(model: model, objective: objective, settings: settings)
/// try await trainer.run { event in print(event) }
/// ```
public final class Trainer {
    /// The numbers of a run.
    public struct Settings: Sendable {
        /// Optimiser steps of the whole run.
        public var steps: Int
        /// AdamW's constants.
        public var optimizer: AdamW.Settings
        /// The learning rate.
        public var schedule: LearningRateSchedule
        /// Steps between evaluations; 0: only after the last.
        public var evaluateEvery: Int
        /// Steps between checkpoints; 0: only after the last.
        public var checkpointEvery: Int
        /// Whether there is a checkpoint after the last step.
        public var keepsLast = true
        /// Stops where the loss exceeds its recent mean by this many nats; 0: never.
        public var spikeThreshold: Double
        /// Evaluations without a better one after which the run ends, the model of the best one being kept apart; nil: the
        /// run makes all its steps, and no best model is kept.
        public var patience: Int?

        /// Settings of a run.
        public init(
            steps: Int, optimizer: AdamW.Settings, schedule: LearningRateSchedule, evaluateEvery: Int = 0,
            checkpointEvery: Int = 0, spikeThreshold: Double = 0, patience: Int? = nil
        ) {
            self.steps = steps
            self.optimizer = optimizer
            self.schedule = schedule
            self.evaluateEvery = evaluateEvery
            self.checkpointEvery = checkpointEvery
            self.spikeThreshold = spikeThreshold
            self.patience = patience
        }
    }

    /// What happened.
    public enum Event: Sendable {
        /// An optimiser step: `step` counts from 1.
        case step(StepReport)
        /// An evaluation after `step`.
        case evaluation(step: Int, TrainingEvaluation)
        /// A checkpoint after `step`.
        case checkpoint(step: Int, path: String)
        /// The model after `step` is the best so far, and kept.
        case best(step: Int, path: String)
        /// Evaluations have not become better for so long that the run ends after `step`.
        case ended(step: Int, best: Int)
    }

    /// One optimiser step.
    public struct StepReport: Sendable, Equatable {
        /// Which step, from 1.
        public var step: Int
        /// The objective's loss.
        public var loss: Double
        /// Its learning rate.
        public var learningRate: Double
        /// Norm of all gradients together, before clipping.
        public var gradientNorm: Double
        /// Tokens it computed.
        public var tokens: Int
        /// Tokens that all steps so far have computed.
        public var totalTokens: Int
        /// Seconds it took.
        public var seconds: Double
        /// The objective's figures.
        public var metrics: [TrainingMetric]
    }

    /// What is trained.
    public let model: TrainableDecoder
    /// What for.
    public let objective: any TrainingObjective
    /// Its optimiser.
    public let optimizer: AdamW
    /// The numbers of the run.
    public let settings: Settings
    /// Where the run stands.
    public private(set) var state: TrainerState
    /// The replicas that train together; nil for one process.
    public let replicas: ReplicatedGradients?
    /// Runs what only the first rank has to do, and the others wait for: writing a checkpoint.
    public var whileOthersWait: (_ phase: String, _ work: () throws -> String?) throws -> String? = { try $1() }
    private let store: CheckpointStore?

    /// Steps made.
    public var step: Int { state.step }

    /// A run from its start.
    /// - Parameters:
    ///   - store: where checkpoints go; nil for none. Of several ranks the first has one.
    ///   - communicator: ranks with the same model, each of which computes its share of a batch.
    public convenience init(
        model: TrainableDecoder, objective: any TrainingObjective, settings: Settings, store: CheckpointStore? = nil,
        replicas communicator: (any Communicator)? = nil
    ) {
        let module = TrainedModule(model, heads: objective.heads)
        let replicas = communicator.map { ReplicatedGradients(model, heads: objective.heads, over: $0) }
        self.init(
            model: model, objective: objective, settings: settings, store: store,
            optimizer: AdamW(
                replicas?.slices() ?? AdamW.slices(module), settings.optimizer, on: model.operations.backend, step: 0,
                moments: { _, _ in nil }),
            state: TrainerState(), replicas: replicas)
    }

    /// A run that goes on from a checkpoint.
    /// - Parameters:
    ///   - objective: makes the objective of the checkpoint's model; it is given its state afterwards.
    ///   - store: where further checkpoints go; nil for none.
    ///   - communicator: ranks with the same model; the checkpoint may come from any number of them.
    ///   - ranks: makes the ranks that the model is cut over, from its configuration; nil for all of it.
    /// - Throws: what is wrong with the checkpoint's files; what `objective` throws.
    public convenience init(
        resuming entry: CheckpointStore.Entry, objective: (TrainableDecoder) throws -> any TrainingObjective,
        settings: Settings, store: CheckpointStore?, replicas communicator: (any Communicator)? = nil,
        ranks: (DecoderConfiguration) throws -> TensorParallel? = { _ in nil }, on operations: DifferentiableOperations
    ) throws {
        let saved = try CheckpointReader(entry)
        let model = try saved.model(ranks: ranks, on: operations)
        let objective = try objective(model)
        let replicas = communicator.map { ReplicatedGradients(model, heads: objective.heads, over: $0) }
        let optimizer = try saved.optimizer(
            replicas?.slices() ?? AdamW.slices(TrainedModule(model, heads: objective.heads)), of: model,
            heads: objective.heads, settings.optimizer)
        try objective.restore(saved.state.objective)
        self.init(
            model: model, objective: objective, settings: settings, store: store, optimizer: optimizer,
            state: saved.state, replicas: replicas)
    }

    private init(
        model: TrainableDecoder, objective: any TrainingObjective, settings: Settings, store: CheckpointStore?,
        optimizer: AdamW, state: TrainerState, replicas: ReplicatedGradients?
    ) {
        self.model = model
        self.objective = objective
        self.settings = settings
        self.store = store
        self.optimizer = optimizer
        self.state = state
        self.replicas = replicas
    }

    /// Trains until the last step, until evaluations have not become better for long enough, or until `shouldStop` says so
    /// after a step; a checkpoint is written in each case (after the last step where the settings say so).
    ///
    /// An objective that cannot make the next step leaves a checkpoint of the steps before it.
    /// - Parameters:
    ///   - shouldStop: asked after every step.
    ///   - report: told what happened, in order.
    /// - Throws: ``TrainerError``; errors of data, objectives and files.
    public func run(shouldStop: () -> Bool = { false }, report: (Event) throws -> Void) async throws {
        while !isOver {
            let start = ContinuousClock.now
            let parts: [MicroBatch]
            do {
                parts = try await objective.microBatches(step: step)
            } catch {
                if step > 0 { try saveCheckpoint(report) }
                guard let error = error as? CUDAError else { throw error }
                throw TrainerError.device(step: step + 1, error, lastCheckpoint: store?.latest?.path)
            }
            try report(.step(try makeStep(parts, since: start)))
            let isLast = step == settings.steps
            // All ranks stop where one is asked to.
            let stops = try sumOverRanks([!isLast && shouldStop() ? 1 : 0])[0] > 0
            if isLast || settings.evaluateEvery > 0 && step % settings.evaluateEvery == 0 {
                if let evaluation = try await objective.evaluate() {
                    try report(.evaluation(step: step, evaluation))
                    try consider(evaluation, report)
                }
            }
            let isDue = settings.checkpointEvery > 0 && step % settings.checkpointEvery == 0
            if stops || isDue || (isLast || hasEnded) && settings.keepsLast { try saveCheckpoint(report) }
            if hasEnded, let best = state.best { try report(.ended(step: step, best: best.step)) }
            if stops { return }
        }
    }

    /// Whether all steps are made, or the run has ended before them.
    public var isOver: Bool { step >= settings.steps || hasEnded }

    /// Whether evaluations have not become better for so long that training is over.
    private var hasEnded: Bool {
        settings.patience.map { $0 > 0 && state.evaluationsSinceBest >= $0 } ?? false
    }

    /// Keeps the model of the best evaluation.
    private func consider(_ evaluation: TrainingEvaluation, _ report: (Event) throws -> Void) throws {
        guard settings.patience != nil else { return }
        if let best = state.best, evaluation.score <= best.score {
            state.evaluationsSinceBest += 1
            return
        }
        state.best = TrainerState.Best(step: step, score: evaluation.score)
        state.evaluationsSinceBest = 0
        let weights = try wholeWeights()
        let path = try whileOthersWait("writing the best model") { try store?.saveBest(model, weights, objective) }
        if let path { try report(.best(step: step, path: path)) }
    }

    /// The weights of the whole model, where this rank has a part of them; nil where it has all.
    private func wholeWeights() throws -> [String: Tensor]? {
        guard model.ranks != nil else { return nil }
        return try model.assembled(
            Dictionary(uniqueKeysWithValues: model.parameters().map { ($0.name, $0.parameter.value) }))
    }

    /// Sums over all ranks of the run.
    private func sumOverRanks(_ values: [Double]) throws -> [Double] {
        let overReplicas = try replicas.map { try BatchShare(of: $0.communicator).sum(values) } ?? values
        return try model.ranks.map { try BatchShare(of: $0.communicator).sum(overReplicas) } ?? overReplicas
    }

    private func saveCheckpoint(_ report: (Event) throws -> Void) throws {
        state.objective = objective.state
        let weights = try wholeWeights()
        let moments = try wholeMoments()
        let path = try whileOthersWait("writing a checkpoint") {
            try store?.save(
                model, weights,
                CheckpointStore.Moments(
                    step: optimizer.step, first: moments.mapValues(\.first), second: moments.mapValues(\.second)),
                objective, state)
        }
        if let path { try report(.checkpoint(step: step, path: path)) }
    }

    /// The moments of the whole model's parameters by their name. All ranks call it; the first has them.
    func wholeMoments() throws -> [String: (first: Tensor, second: Tensor)] {
        let own = try replicas?.wholeMoments(optimizer) ?? optimizer.moments
        guard model.ranks != nil else { return own }
        let second = try model.assembled(own.mapValues(\.second))
        return try model.assembled(own.mapValues(\.first)).reduce(into: [:]) {
            $0[$1.key] = ($1.value, second[$1.key]!)
        }
    }

    /// One optimiser step.
    public func makeStep() async throws -> StepReport {
        let start = ContinuousClock.now
        return try makeStep(await objective.microBatches(step: step), since: start)
    }

    /// One optimiser step of given parts.
    package func makeStep(_ parts: [MicroBatch]) throws -> StepReport { try makeStep(parts, since: .now) }

    private func makeStep(_ parts: [MicroBatch], since start: ContinuousClock.Instant) throws -> StepReport {
        do {
            return try madeStep(parts, since: start)
        } catch let error as CUDAError {
            throw TrainerError.device(step: step + 1, error, lastCheckpoint: store?.latest?.path)
        }
    }

    /// Nothing waits for the device until the losses and the norm are read, after the update has been queued: an update by
    /// gradients that are not finite changes nothing.
    private func madeStep(_ parts: [MicroBatch], since start: ContinuousClock.Instant) throws -> StepReport {
        let backend = model.operations.backend
        if let replicas { replicas.zeroGradients() } else { optimizer.zeroGradients() }
        var (losses, tokens) = ([Tensor](), 0)
        for (index, part) in parts.enumerated() {
            if index == parts.count - 1 { replicas?.beginLastPass() }
            let value = try part.loss()
            value.backward(scale: Float(part.weight), on: backend)
            losses.append(value.detached())
            tokens += part.tokens
        }
        func total(_ losses: [Tensor]) -> Double {
            zip(losses, parts).reduce(0.0) { $0 + Double($1.0.floats[0]) * $1.1.weight }
        }
        if let replicas { try replicas.finish() } else { try model.sumSharedGradients() }
        var squares = optimizer.sumOfSquares(model.weightsInSums)
        try replicas?.sum(squares)
        if let ranks = model.ranks {
            squares = Tensor(try BatchShare(of: ranks.communicator).sum([squares.doubles[0]])[0])
        }
        let rate = settings.schedule.rate(step: step)
        optimizer.update(learningRate: Float(rate), squares: squares)
        try replicas?.gather()
        if step + 1 < settings.steps { objective.prepare(step: step + 1) }
        try replicas?.settle()
        let read = try backend.toHost(losses + [squares])
        var loss = total(Array(read.dropLast()))
        let norm = read[losses.count].doubles[0].squareRoot()
        if let replicas {
            let sums = try BatchShare(of: replicas.communicator).sum([loss, Double(tokens)])
            (loss, tokens) = (sums[0], Int(sums[1]))
        }
        try check(loss, norm)
        state.step += 1
        state.tokens += tokens
        state.recentLoss = state.recentLoss.map { 0.95 * $0 + 0.05 * loss } ?? loss
        let metrics = try objective.finishStep()
        return StepReport(
            step: step, loss: loss, learningRate: rate, gradientNorm: norm, tokens: tokens,
            totalTokens: state.tokens, seconds: (ContinuousClock.now - start).inSeconds, metrics: metrics)
    }

    private func check(_ loss: Double, _ norm: Double) throws {
        let last = store?.latest?.path
        guard loss.isFinite && norm.isFinite else {
            let tensor =
                loss.isFinite ? "the gradient of \(optimizer.firstNonFiniteGradient() ?? "a weight")" : "the loss"
            throw TrainerError.notFinite(step: step + 1, tensor: tensor, lastCheckpoint: last)
        }
        if let recentLoss = state.recentLoss, objective.hasComparableLoss, settings.spikeThreshold > 0,
            loss > recentLoss + settings.spikeThreshold
        {
            throw TrainerError.lossSpike(
                step: step + 1, loss: loss, recentMean: recentLoss, threshold: settings.spikeThreshold,
                lastCheckpoint: last)
        }
    }
}
