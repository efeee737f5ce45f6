import ApusModels
import ApusTensor

/// The speed of whole training steps (forward, backward, clipping, AdamW) of a recipe's model on random tokens.
public struct TrainingBenchmark {
    /// What was measured.
    public struct Result: Sendable {
        /// Parameters of the model.
        public var parameters: Int
        /// Tokens of a step.
        public var tokensPerStep: Int
        /// Tokens per second of each timed step.
        public var samples: [Double]
        /// Median of the samples.
        public var tokensPerSecond: Double { samples.sorted()[samples.count / 2] }
        /// `6 N` operations per token times the median: the usual measure, which counts neither attention nor
        /// recomputation.
        public var operationsPerSecond: Double { 6 * Double(parameters) * tokensPerSecond }
    }

    private let trainer: Trainer

    /// A benchmark of a recipe's model, batch and precision; its data and output are not used.
    /// - Parameter vocabulary: tokens where the recipe names none.
    public init(_ recipe: Recipe, vocabulary: Int, on backend: CPUBackend) throws {
        let operations = DifferentiableOperations(
            on: backend, compute: recipe.training.compute == .bf16 ? .bf16 : .f32)
        let configuration = try recipe.model.decoderConfiguration(
            vocabulary: vocabulary, maxPositions: recipe.data.sequenceLength)
        let model = try TrainableDecoder(
            initializing: configuration, seed: UInt64(recipe.training.seed), deviation: Float(recipe.model.initStd),
            on: operations)
        model.checkpointsLayers = recipe.training.gradientCheckpointing
        let data = RandomTokens(
            vocabulary: configuration.vocabularySize, rows: recipe.data.batchSize, length: recipe.data.sequenceLength)
        var settings = recipe.trainerSettings
        settings.evaluateEvery = 0
        settings.checkpointEvery = 0
        trainer = Trainer(model: model, data: data, settings: settings)
    }

    /// Runs one step untimed, then `steps` timed ones.
    public func run(steps: Int) throws -> Result {
        _ = try trainer.makeStep()
        let reports = try (0..<steps).map { _ in try trainer.makeStep() }
        return Result(
            parameters: trainer.model.parameterCount, tokensPerStep: reports.first?.tokens ?? 0,
            samples: reports.map { Double($0.tokens) / $0.seconds })
    }
}

/// Uniformly random tokens.
private struct RandomTokens: BatchSource {
    let vocabulary: Int
    let rows: Int
    let length: Int

    var evaluationBatches: Int { 0 }

    func evaluationBatch(_ index: Int) -> PackedBatch { preconditionFailure("random tokens have nothing held out") }

    func batch(step: Int, part: Int) -> PackedBatch {
        var state = UInt64(step) &* 0x9e37_79b9_7f4a_7c15 &+ UInt64(part)
        func next() -> Int32 {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int32((state >> 33) % UInt64(vocabulary))
        }
        let tokens = (0..<rows * length).map { _ in next() }
        return PackedBatch(
            tokens: tokens, targets: tokens.map { _ in next() }, starts: (0...rows).map { $0 * length })
    }
}

extension Recipe {
    /// The trainer's numbers.
    public var trainerSettings: Trainer.Settings {
        var adam = AdamW.Settings()
        adam.betas = (Float(optimizer.betas[0]), Float(optimizer.betas[1]))
        adam.epsilon = Float(optimizer.epsilon)
        adam.weightDecay = Float(optimizer.weightDecay)
        adam.clip = Float(optimizer.clip)
        return Trainer.Settings(
            steps: resolvedSteps, accumulation: data.accumulation, optimizer: adam,
            schedule: LearningRateSchedule(
                peak: optimizer.learningRate, kind: schedule.kind, warmupSteps: resolvedWarmupSteps,
                totalSteps: resolvedSteps, minRatio: schedule.minRatio, decayFraction: schedule.decayFraction),
            evaluateEvery: training.evaluateEvery, checkpointEvery: training.checkpointEvery,
            spikeThreshold: training.spikeThreshold)
    }
}
