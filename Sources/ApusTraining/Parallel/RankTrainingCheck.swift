import ApusDistributed
import ApusModels
import ApusTensor

/// Holds ranks that train a small model together against the same steps on the same batches by one rank alone.
public struct RankTrainingCheck {
    /// What the ranks share.
    public enum Sharing: String, Sendable {
        /// Batches, of which each rank computes a part with a model of its own.
        case batches
        /// A model that is cut over them.
        case model
    }

    /// What a check found.
    public struct Outcome: Sendable, Equatable {
        /// The attention of the model.
        public var attention: String
        /// What the ranks shared.
        public var sharing: Sharing
        /// Steps made.
        public var steps: Int
        /// Loss of the first step by one rank alone.
        public var firstLoss: Double
        /// Loss of the last step.
        public var lastLoss: Double
        /// The largest distance of a step's losses, relative to those above 1.
        public var lossDifference: Double
        /// Distance of the moments after the first step, as they are gathered for checkpoints, relative to their length; known
        /// on the first rank.
        public var momentDifference: Double

        /// Whether the distances are those of sums in another order.
        public var isExpected: Bool {
            lossDifference <= RankTrainingCheck.tolerance && momentDifference <= RankTrainingCheck.tolerance
                && lastLoss < 0.7 * firstLoss
        }
    }

    /// The largest distance that is expected.
    public static let tolerance = 1e-3

    private let communicator: any Communicator
    private let backend: any DifferentiableBackend

    /// A check of a communicator, on whose memory the backend works; all its ranks run it.
    public init(_ communicator: any Communicator, on backend: any DifferentiableBackend) {
        self.communicator = communicator
        self.backend = backend
    }

    /// Whether the models can be cut over these ranks, so that ``Sharing/model`` can be checked: a power of two does.
    public var canCut: Bool { communicator.size.nonzeroBitCount == 1 }

    /// Trains a model of two layers in float32.
    public func run(_ attention: RecipeAttention, sharing: Sharing = .batches, steps: Int = 50) throws -> Outcome {
        let (together, alone) = (
            try trainer(attention, steps, sharing), try trainer(attention, steps, nil)
        )
        var outcome = Outcome(
            attention: attention.rawValue, sharing: sharing, steps: steps, firstLoss: 0, lastLoss: 0, lossDifference: 0,
            momentDifference: 0)
        for step in 0..<steps {
            let (found, expected) = (try makeStep(together), try makeStep(alone))
            if step == 0 {
                outcome.firstLoss = expected
                outcome.momentDifference = try momentDifference(together, alone)
            }
            outcome.lastLoss = expected
            let difference = abs(found - expected) / max(1, abs(expected))
            // What is not a number is not within any distance.
            outcome.lossDifference = max(difference.isFinite ? difference : .infinity, outcome.lossDifference)
        }
        return outcome
    }

    private func makeStep(_ trainer: (Trainer, CrossEntropyObjective)) throws -> Double {
        try trainer.0.makeStep(trainer.1.microBatches(step: trainer.0.step)).loss
    }

    private func trainer(
        _ attention: RecipeAttention, _ steps: Int, _ sharing: Sharing?
    ) throws -> (Trainer, CrossEntropyObjective) {
        var description = Recipe.Model()
        description.attention = attention
        let heads = canCut ? max(4, communicator.size) : 4
        description.heads = heads
        description.hiddenSize = 16 * heads
        description.layers = 2
        if attention == .gqa || attention == .gta { description.kvHeads = 2 }
        let configuration = try description.decoderConfiguration(vocabulary: 64, maxPositions: 256)
        let replicas = sharing == .batches ? communicator : nil
        let model = try TrainableDecoder(
            initializing: configuration, seed: 7, deviation: 0.1,
            ranks: sharing == .model ? TensorParallel(configuration, over: communicator) : nil,
            on: DifferentiableOperations(on: backend, compute: .f32))
        let objective = CrossEntropyObjective(
            model, data: Sequences(), accumulation: 2, share: replicas.map { BatchShare(of: $0) } ?? .whole)
        let settings = Trainer.Settings(
            steps: steps, optimizer: AdamW.Settings(),
            schedule: LearningRateSchedule(
                peak: 3e-3, kind: .cosine, warmupSteps: 2, totalSteps: steps, minRatio: 0.1, decayFraction: 0.2))
        return (Trainer(model: model, objective: objective, settings: settings, replicas: replicas), objective)
    }

    private func momentDifference(
        _ together: (Trainer, CrossEntropyObjective), _ alone: (Trainer, CrossEntropyObjective)
    ) throws -> Double {
        // All ranks come here together.
        let found = try together.0.wholeMoments()
        guard communicator.rank == 0 else { return 0 }
        // Of all together: some gradients, as those of keys' biases, are nothing but rounding.
        var (distances, lengths) = ([0.0, 0.0], [0.0, 0.0])
        for (name, expected) in alone.0.optimizer.moments {
            guard let moments = found[name] else { return .infinity }
            for (index, pair) in [(moments.first, expected.first), (moments.second, expected.second)].enumerated() {
                for (x, y) in zip(pair.0.floats, pair.1.floats) {
                    distances[index] += (Double(x) - Double(y)) * (Double(x) - Double(y))
                    lengths[index] += Double(y) * Double(y)
                }
            }
        }
        let difference = zip(distances, lengths).map { ($0 / $1).squareRoot() }.reduce(0, +)
        return difference.isFinite ? difference : .infinity
    }

    /// Sequences of unequal lengths that can be learnt, with targets that do not count.
    private struct Sequences: BatchSource {
        let evaluationBatches = 0

        func evaluationBatch(_ index: Int) -> PackedBatch { batch(step: 0, part: 0) }

        func batch(step: Int, part: Int) -> PackedBatch {
            let (seed, count) = (step * 7 + part * 3 + 1, 160)
            let tokens = (0..<count).map { Int32((seed + $0 * (1 + seed % 2)) % 61) }
            let targets = tokens.enumerated().map { $0.offset % 5 == 4 ? -1 : ($0.element + 1) % 61 }
            return PackedBatch(tokens: tokens, targets: targets, starts: [0, 23, 60, 61, 102, 131, count])
        }
    }
}
