import ApusModels
import ApusTensor
import ApusText
import ApusTraining

/// Policy gradients: outputs are drawn with the live weights, rewarded, and learnt from.
///
/// The tasks `rloo`, `grpo`, `reinforce` and `ppo` of recipes. A rollout serves `epochs` x `minibatches` optimiser steps.
public final class PolicyGradientObjective: TrainingObjective {
    /// What a policy gradient works with.
    public struct Materials {
        /// Which estimator: rloo, grpo, reinforce or ppo.
        public var task: RecipeTask
        /// The numbers.
        public var settings: Recipe.PolicyGradient
        /// Of everything that is drawn.
        public var seed: UInt64
        /// What outputs are rewarded by.
        public var reward: any RewardFunction
        /// What that stands for; nil where it is not known.
        public var groundTruth: (any RewardFunction)?
        /// Prompts to train on, at least one.
        public var prompts: [PolicyPrompt]
        /// Prompts that are held out.
        public var heldOut: [PolicyPrompt]
        /// What the policy stays near to; nil without a KL term.
        public var reference: TrainableDecoder?

        /// Materials.
        public init(
            task: RecipeTask, settings: Recipe.PolicyGradient, seed: UInt64, reward: any RewardFunction,
            groundTruth: (any RewardFunction)? = nil, prompts: [PolicyPrompt], heldOut: [PolicyPrompt] = [],
            reference: TrainableDecoder? = nil
        ) {
            precondition(task.isPolicyGradient && !prompts.isEmpty, "\(task) on \(prompts.count) prompts")
            self.task = task
            self.settings = settings
            self.seed = seed
            self.reward = reward
            self.groundTruth = groundTruth
            self.prompts = prompts
            self.heldOut = heldOut
            self.reference = reference
        }
    }

    let model: TrainableDecoder
    let engine: any RolloutSource
    let materials: Materials
    let valueHead: ValueHead?
    var shaping: RewardShaping
    var progress = PolicyProgress()
    /// Figures of the step under way.
    var figures = StepFigures()
    /// Steps made, that under way included.
    private(set) var stepsMade = 0
    private var trainingSince = ContinuousClock.now
    /// Whether weights have changed since the engine last heard of it.
    private var engineIsBehind = false

    /// What a step adds up.
    struct StepFigures {
        var metrics: [TrainingMetric] = []
        var surrogate = PolicySurrogate.Figures()
        var valueLoss = 0.0
        /// Absolute differences of log-probabilities between engine and trainer, of the first update of a rollout.
        var differences: [Float] = []
    }

    /// The objective of a model whose outputs `engine` draws.
    public init(_ model: TrainableDecoder, engine: any RolloutSource, _ materials: Materials) {
        self.model = model
        self.engine = engine
        self.materials = materials
        valueHead =
            materials.task == .ppo
            ? ValueHead(width: model.configuration.hiddenSize, on: model.operations.backend) : nil
        let settings = materials.settings
        shaping = RewardShaping(
            factor: settings.rewardScaleFactor, share: settings.rewardScaleShare, about: settings.rewardScaleAbout,
            seed: materials.seed)
    }

    /// PPO's value head.
    public var heads: (any Module)? { valueHead }

    /// False: the surrogate's value says nothing.
    public var hasComparableLoss: Bool { false }

    /// Updates that a rollout serves.
    var updates: Int { materials.settings.epochs * materials.settings.minibatches }

    /// See `TrainingObjective`.
    public func microBatches(step: Int) async throws -> [MicroBatch] {
        figures = StepFigures()
        let before = (progress, shaping)
        do {
            try await prepare(step)
        } catch {
            (progress, shaping) = before
            throw error
        }
        guard let batch = progress.batch else { throw PolicyGradientError.state("no rollout for step \(step)") }
        let groups = batch.minibatch(step % updates, of: materials.settings.minibatches) { epoch in
            let seed = DrawSeeds.seed(materials.seed, .minibatches, batch.number * materials.settings.epochs + epoch)
            let order = WindowOrder(count: batch.groups.count, seed: seed)
            return (0..<batch.groups.count).map { order[$0] }
        }
        let current = try await engineLogProbabilities(groups, isFirstUpdate: step % updates == 0)
        stepsMade = step + 1
        trainingSince = .now
        return parts(of: groups, current: current, isFirstUpdate: step % updates == 0)
    }

    /// By group and output the engine's log-probabilities under the weights as they are; nil where the trainer's are compared.
    private func engineLogProbabilities(
        _ groups: [[TrainingOutput]], isFirstUpdate: Bool
    ) async throws -> [[[Float]]]? {
        guard materials.settings.logProbabilities == .engine else { return nil }
        if isFirstUpdate { return groups.map { $0.map(\.drawn) } }
        try await refreshEngine()
        let found = try await engine.logProbabilities(
            of: groups.joined().map {
                let prompt = materials.prompts[$0.prompt]
                return (prompt.index, prompt.tokens, $0.tokens)
            })
        var next = found.makeIterator()
        return groups.map { $0.map { _ in next.next() ?? [] } }
    }

    /// Everything a step needs before its losses: measurements of the initial policy, and a rollout where one is due.
    private func prepare(_ step: Int) async throws {
        if step == 0, progress.evaluations.isEmpty { try await measureInitialPolicy() }
        guard step % updates == 0 else { return }
        try await refreshEngine()
        progress.batch = try await collect(step / updates, step: step)
    }

    /// Has the engine read the weights as they are now.
    func refreshEngine() async throws {
        guard engineIsBehind else { return }
        try await engine.refresh()
        engineIsBehind = false
    }

    /// See `TrainingObjective`.
    public func finishStep() throws -> [TrainingMetric] {
        engineIsBehind = true
        var metrics = figures.metrics
        let found = figures.surrogate
        if found.ratios > 0 {
            metrics.append(TrainingMetric("clip_share", Double(found.clipped) / Double(found.ratios)))
            metrics.append(TrainingMetric("ratio", found.ratioSum / Double(found.ratios)))
        }
        if materials.task == .grpo, materials.reference != nil, found.tokens > 0 {
            metrics.append(TrainingMetric("kl_k3", found.klSum / Double(found.tokens)))
        }
        if materials.task == .ppo { metrics.append(TrainingMetric("value_loss", figures.valueLoss)) }
        if !figures.differences.isEmpty {
            let sorted = figures.differences.sorted()
            let mean = sorted.reduce(0.0) { $0 + Double($1) } / Double(sorted.count)
            metrics.append(TrainingMetric("log_probability_difference_mean", mean))
            metrics.append(
                TrainingMetric("log_probability_difference_p99", Double(sorted[(sorted.count - 1) * 99 / 100])))
        }
        metrics.append(TrainingMetric("train_seconds", (ContinuousClock.now - trainingSince).inSeconds))
        return metrics
    }

    /// See `TrainingObjective`. The rollout is part of it while updates on it are to come.
    public var state: JSONValue { progress.json }

    /// See `TrainingObjective`.
    /// - Throws: ``PolicyGradientError/state(_:)``.
    public func restore(_ state: JSONValue) throws {
        progress = try PolicyProgress(state)
        if let normalization = progress.normalization {
            (shaping.mean, shaping.deviation) = normalization
        }
        for output in progress.batch?.groups.joined() ?? [].joined() where output.prompt >= materials.prompts.count {
            throw PolicyGradientError.state(
                "prompt \(output.prompt), and there are \(materials.prompts.count); the prompts' files have changed")
        }
    }
}
