import ApusModels
import ApusTensor

/// Trains a decoder on batches: gradients, clipping, AdamW, a schedule; checkpoints from which a run goes on bit for bit.
///
/// ```swift
/// let trainer = try Trainer(model: model, data: data, settings: settings)
/// try trainer.run { event in print(event) }
/// ```
public final class Trainer {
    /// The numbers of a run.
    public struct Settings: Sendable {
        /// Optimiser steps of the whole run.
        public var steps: Int
        /// Micro-batches whose gradients are added up for a step.
        public var accumulation: Int
        /// AdamW's constants.
        public var optimizer: AdamW.Settings
        /// The learning rate.
        public var schedule: LearningRateSchedule
        /// Steps between evaluations; 0: only after the last.
        public var evaluateEvery: Int
        /// Steps between checkpoints; 0: only after the last.
        public var checkpointEvery: Int
        /// Stops where the loss exceeds its recent mean by this many nats; 0: never.
        public var spikeThreshold: Double

        /// Settings of a run.
        public init(
            steps: Int, accumulation: Int = 1, optimizer: AdamW.Settings, schedule: LearningRateSchedule,
            evaluateEvery: Int = 0, checkpointEvery: Int = 0, spikeThreshold: Double = 0
        ) {
            self.steps = steps
            self.accumulation = accumulation
            self.optimizer = optimizer
            self.schedule = schedule
            self.evaluateEvery = evaluateEvery
            self.checkpointEvery = checkpointEvery
            self.spikeThreshold = spikeThreshold
        }
    }

    /// What happened.
    public enum Event: Sendable {
        /// An optimiser step: `step` counts from 1.
        case step(StepReport)
        /// An evaluation after `step`: mean cross-entropy of held-out text in nats.
        case evaluation(step: Int, loss: Double, tokens: Int)
        /// A checkpoint after `step`.
        case checkpoint(step: Int, path: String)
    }

    /// One optimiser step.
    public struct StepReport: Sendable, Equatable {
        /// Which step, from 1.
        public var step: Int
        /// Mean cross-entropy of its targets in nats.
        public var loss: Double
        /// Its learning rate.
        public var learningRate: Double
        /// Norm of its gradients before clipping.
        public var gradientNorm: Double
        /// Input tokens.
        public var tokens: Int
        /// Seconds it took.
        public var seconds: Double
    }

    /// What is trained.
    public let model: TrainableDecoder
    /// Its optimiser.
    public let optimizer: AdamW
    /// The numbers of the run.
    public let settings: Settings
    /// Steps made.
    public private(set) var step: Int
    /// Mean loss of recent steps, weighed by `0.95 ^ age`, in nats; nil before the first.
    public private(set) var recentLoss: Double?
    private let data: any BatchSource
    private let store: CheckpointStore?

    /// A run from its start.
    /// - Parameter store: where checkpoints go; nil for none.
    public convenience init(
        model: TrainableDecoder, data: any BatchSource, settings: Settings, store: CheckpointStore? = nil
    ) {
        self.init(
            model: model, data: data, settings: settings, store: store,
            optimizer: AdamW(model, settings.optimizer, on: model.operations.backend), recentLoss: nil)
    }

    /// A run that goes on from a checkpoint's state.
    public init(
        model: TrainableDecoder, data: any BatchSource, settings: Settings, store: CheckpointStore?, optimizer: AdamW,
        recentLoss: Double?
    ) {
        self.model = model
        self.data = data
        self.settings = settings
        self.store = store
        self.optimizer = optimizer
        self.recentLoss = recentLoss
        step = optimizer.step
    }

    /// Trains until the last step, or until `shouldStop` says so after a step; a checkpoint is written in either case.
    /// - Parameters:
    ///   - shouldStop: asked after every step.
    ///   - report: told what happened, in order.
    /// - Throws: ``TrainerError``; errors of data and files.
    public func run(shouldStop: () -> Bool = { false }, report: (Event) throws -> Void) throws {
        while step < settings.steps {
            try report(.step(try makeStep()))
            let isLast = step == settings.steps
            let stops = !isLast && shouldStop()
            if isLast || settings.evaluateEvery > 0 && step % settings.evaluateEvery == 0 {
                let (loss, tokens) = try evaluate()
                if tokens > 0 { try report(.evaluation(step: step, loss: loss, tokens: tokens)) }
            }
            if isLast || stops || settings.checkpointEvery > 0 && step % settings.checkpointEvery == 0 {
                if let path = try store?.save(model, optimizer, recentLoss: recentLoss) {
                    try report(.checkpoint(step: step, path: path))
                }
            }
            if stops { return }
        }
    }

    /// One optimiser step.
    public func makeStep() throws -> StepReport {
        let start = ContinuousClock.now
        optimizer.zeroGradients()
        // A step's loss is the mean over all its targets, however they are spread over micro-batches.
        let parts = try (0..<settings.accumulation).map { try data.batch(step: step, part: $0) }
        let targets = Double(max(parts.reduce(0) { $0 + $1.countedTargets }, 1))
        var (loss, tokens) = (0.0, 0)
        for batch in parts {
            let share = Double(batch.countedTargets) / targets
            let value = model.loss(batch.tokens, targets: batch.targets, model.batch(starts: batch.starts)).loss
            value.backward(scale: Float(share), on: model.operations.backend)
            loss += Double(value.floats[0]) * share
            tokens += batch.tokens.count
        }
        let norm = optimizer.gradientNorm()
        try check(loss, norm)
        let rate = settings.schedule.rate(step: step)
        optimizer.update(learningRate: Float(rate), norm: norm)
        step += 1
        recentLoss = recentLoss.map { 0.95 * $0 + 0.05 * loss } ?? loss
        return StepReport(
            step: step, loss: loss, learningRate: rate, gradientNorm: norm, tokens: tokens,
            seconds: (ContinuousClock.now - start).inSeconds)
    }

    /// Mean cross-entropy over the held-out batches in nats, and the number of targets counted.
    public func evaluate() throws -> (loss: Double, tokens: Int) {
        var (total, count) = (0.0, 0)
        for index in 0..<data.evaluationBatches {
            let batch = try data.evaluationBatch(index)
            let logProbabilities = withoutGradients {
                model.loss(batch.tokens, targets: batch.targets, model.batch(starts: batch.starts)).logProbabilities
            }
            total -= logProbabilities.reduce(0.0) { $0 + Double($1) }
            count += batch.countedTargets
        }
        return (count == 0 ? 0 : total / Double(count), count)
    }

    private func check(_ loss: Double, _ norm: Double) throws {
        let last = store?.latest?.path
        guard loss.isFinite && norm.isFinite else {
            let tensor =
                loss.isFinite ? "the gradient of \(optimizer.firstNonFiniteGradient() ?? "a weight")" : "the loss"
            throw TrainerError.notFinite(step: step + 1, tensor: tensor, lastCheckpoint: last)
        }
        if let recentLoss, settings.spikeThreshold > 0, loss > recentLoss + settings.spikeThreshold {
            throw TrainerError.lossSpike(
                step: step + 1, loss: loss, recentMean: recentLoss, threshold: settings.spikeThreshold,
                lastCheckpoint: last)
        }
    }
}
