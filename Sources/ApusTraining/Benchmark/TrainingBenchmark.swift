import ApusDistributed
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
        /// Median seconds of a step.
        public var stepSeconds: Double
        /// Median seconds of a step that exchanges nothing, where there are replicas.
        public var computeSeconds: Double?
        /// Median seconds of a step's exchanges alone.
        public var communicationSeconds: Double?
        /// Most bytes of the GPU's memory that tensors took, where it trained there.
        public var peakDeviceMemory: Int?
        /// Median of the samples.
        public var tokensPerSecond: Double { samples.sorted()[samples.count / 2] }
        /// `6 N` operations per token times the median: the usual measure, which counts neither attention nor
        /// recomputation.
        public var operationsPerSecond: Double { 6 * Double(parameters) * tokensPerSecond }
    }

    private let trainer: Trainer
    /// The same without replicas.
    private let alone: Trainer?

    /// A benchmark of a recipe's model, batch and precision; its data and output are not used.
    /// - Parameters:
    ///   - vocabulary: tokens where the recipe names none.
    ///   - replicas: ranks that share each batch; nil for none.
    ///   - tensorParallel: ranks that the model is cut over; nil for none.
    ///   - cpu: the backend where the recipe's device is the CPU.
    ///   - gpu: that of this rank's GPU, where ranks train on GPUs.
    public init(
        _ recipe: Recipe, vocabulary: Int, replicas: (any Communicator)? = nil,
        tensorParallel: (any Communicator)? = nil, on cpu: CPUBackend, gpu: CUDABackend? = nil
    ) throws {
        let backend = try recipe.backend(
            cpu: cpu, gpu: gpu, ranks: (replicas?.size ?? 1) * (tensorParallel?.size ?? 1))
        let operations = DifferentiableOperations(
            on: backend, compute: recipe.training.compute == .bf16 ? .bf16 : .f32)
        let configuration = try recipe.model.decoderConfiguration(
            vocabulary: vocabulary, maxPositions: recipe.data.sequenceLength)
        let model = try TrainableDecoder(
            initializing: configuration, seed: UInt64(recipe.training.seed), deviation: Float(recipe.model.initStd),
            ranks: tensorParallel.map { try TensorParallel(configuration, over: $0) }, on: operations)
        model.checkpointsLayers = recipe.training.gradientCheckpointing
        let data = RandomTokens(
            vocabulary: configuration.vocabularySize, rows: recipe.data.batchSize, length: recipe.data.sequenceLength)
        var settings = recipe.trainerSettings()
        settings.evaluateEvery = 0
        settings.checkpointEvery = 0
        func trainer(_ replicas: (any Communicator)?) -> Trainer {
            Trainer(
                model: model,
                objective: CrossEntropyObjective(
                    model, data: data, accumulation: recipe.data.accumulation, share: share), settings: settings,
                replicas: replicas)
        }
        let share = replicas.map { BatchShare(of: $0) } ?? .whole
        self.trainer = trainer(replicas)
        alone = replicas == nil ? nil : trainer(nil)
    }

    /// Runs one step untimed, then `steps` timed ones. Over replicas, steps with and without exchanges and exchanges alone take
    /// turns, so that all meet the same machine.
    public func run(steps: Int) async throws -> Result {
        var reports: [Trainer.StepReport] = []
        var (plain, exchanges): ([Double], [Double]) = ([], [])
        for index in 0...steps {
            try trainer.replicas?.communicator.barrier()
            let report = try await trainer.makeStep()
            var seconds: (plain: Double, exchange: Double)?
            if let alone, let replicas = trainer.replicas {
                try replicas.communicator.barrier()
                let plain = try await alone.makeStep().seconds
                try replicas.communicator.barrier()
                let start = ContinuousClock.now
                try replicas.finish()
                try replicas.gather()
                try replicas.settle()
                try trainer.model.operations.backend.check()
                seconds = (plain, (ContinuousClock.now - start).inSeconds)
            }
            if index == 0 { continue }
            reports.append(report)
            if let seconds {
                plain.append(seconds.plain)
                exchanges.append(seconds.exchange)
            }
        }
        return Result(
            parameters: trainer.model.wholeParameterCount, tokensPerStep: reports.first?.tokens ?? 0,
            samples: reports.map { Double($0.tokens) / $0.seconds }, stepSeconds: median(reports.map(\.seconds)),
            computeSeconds: plain.isEmpty ? nil : median(plain),
            communicationSeconds: exchanges.isEmpty ? nil : median(exchanges),
            peakDeviceMemory: (trainer.model.operations.backend as? CUDABackend)?.peakMemory)
    }

    /// Where the time of one more step without exchanges goes on a GPU: its kernels, the longest first; empty on the CPU.
    public func profile() async throws -> [(kernel: String, launches: Int, seconds: Double)] {
        guard let gpu = trainer.model.operations.backend as? CUDABackend else { return [] }
        try gpu.stream.beginTimeline()
        _ = try await (alone ?? trainer).makeStep()
        return try gpu.stream.endTimeline()
    }

    private func median(_ values: [Double]) -> Double { values.sorted()[values.count / 2] }
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
