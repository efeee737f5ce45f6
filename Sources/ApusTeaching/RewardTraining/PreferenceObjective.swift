import ApusModels
import ApusTensor
import ApusText
import ApusTraining

/// Scoring the better answer of a pair higher: a reward model learns from preferences.
///
/// An epoch serves each pair once, in an order that follows from the seed. A step's loss is the mean over its pairs.
public final class PreferenceObjective: TrainingObjective {
    private let model: TrainableDecoder
    private let train: [EncodedPair]
    private let heldOut: [EncodedPair]
    private let pairsPerBatch: Int
    private let accumulation: Int
    private let centering: Double
    private let seed: Int
    private var step = PreferenceFigures()
    private var normalization: RewardNormalization?

    /// Training pairs whose rewards are measured where none are held out.
    private static let measuredPairs = 256

    init(_ model: TrainableDecoder, train: [EncodedPair], heldOut: [EncodedPair], recipe: Recipe) {
        self.model = model
        self.train = train
        self.heldOut = heldOut
        pairsPerBatch = recipe.data.batchSize
        accumulation = recipe.data.accumulation
        centering = recipe.reward.centering
        seed = recipe.training.seed
    }

    /// See ``TrainingObjective``.
    public func microBatches(step number: Int) -> [MicroBatch] {
        step = PreferenceFigures()
        return (0..<accumulation).map { part in
            let first = (number * accumulation + part) * pairsPerBatch
            let pairs = (first..<first + pairsPerBatch).map { place -> EncodedPair in
                let mixed = WindowOrder.mix(UInt64(bitPattern: Int64(seed))) ^ UInt64(place / train.count)
                return train[WindowOrder(count: train.count, seed: WindowOrder.mix(mixed))[place % train.count]]
            }
            let (tokens, starts) = pairs.packed
            return MicroBatch(weight: 1 / Double(accumulation), tokens: tokens.count) { [self] in
                let (loss, rewards) = Self.loss(
                    model, tokens: tokens, starts: starts, margins: pairs.map(\.margin), centering: centering)
                step.add(rewards, loss: Double(loss.floats[0]))
                return loss
            }
        }
    }

    /// The loss of pairs: `-log sigmoid(chosen - rejected - margin) + centering (chosen + rejected)^2`, mean over them.
    /// - Parameters:
    ///   - model: has a score head of one label.
    ///   - tokens: the sides, chosen and rejected in turns, one after the other.
    ///   - starts: where the sides start, and the number of tokens.
    ///   - margins: of the pairs.
    ///   - centering: factor on the penalty.
    /// - Returns: the recorded loss, and the rewards of the sides.
    public static func loss(
        _ model: TrainableDecoder, tokens: [Int32], starts: [Int], margins: [Double], centering: Double
    ) -> (loss: Tensor, rewards: [Double]) {
        let scores = model.scores(tokens, model.batch(starts: starts))
        let rewards = scores.floats.map { Double($0) }
        let loss = PreferenceLoss(rewards, margins: margins, centering: centering)
        let recorded = model.operations.scalar(
            Float(loss.value), of: [(scores, Tensor(loss.gradient, shape: scores.shape))])
        return (recorded, rewards)
    }

    /// See ``TrainingObjective``.
    public func finishStep() -> [TrainingMetric] { Array(step.metrics.dropFirst()) }

    /// See ``TrainingObjective``.
    public func evaluate() -> TrainingEvaluation? {
        guard !heldOut.isEmpty else {
            normalization = RewardNormalization(figures(of: train.prefix(Self.measuredPairs)).rewards)
            return nil
        }
        let figures = figures(of: heldOut[...])
        normalization = RewardNormalization(figures.rewards)
        return TrainingEvaluation(
            metrics: figures.metrics, count: heldOut.count, unit: "pairs", score: figures.accuracy)
    }

    private func figures(of pairs: ArraySlice<EncodedPair>) -> PreferenceFigures {
        var figures = PreferenceFigures()
        var rest = pairs
        while !rest.isEmpty {
            let batch = Array(rest.prefix(pairsPerBatch))
            rest = rest.dropFirst(batch.count)
            let (tokens, starts) = batch.packed
            let (loss, rewards) = withoutGradients {
                Self.loss(
                    model, tokens: tokens, starts: starts, margins: batch.map(\.margin), centering: centering)
            }
            figures.add(rewards, loss: Double(loss.floats[0]))
        }
        return figures
    }

    /// See ``TrainingObjective``.
    public var state: JSONValue { normalization?.json ?? .null }

    /// See ``TrainingObjective``.
    public func restore(_ state: JSONValue) throws {
        normalization = state == .null ? nil : try RewardNormalization(JSONNode(state, name: "objective"))
    }

    /// See ``TrainingObjective``.
    public var files: [(name: String, contents: [UInt8])] {
        guard let normalization else { return [] }
        return [(RewardNormalization.fileName, Array((normalization.json.serialized(.pretty) + "\n").utf8))]
    }
}

/// What the rewards of some pairs say.
struct PreferenceFigures {
    /// Rewards, chosen and rejected in turns.
    private(set) var rewards: [Double] = []
    private var lossSum = 0.0

    mutating func add(_ rewards: [Double], loss: Double) {
        self.rewards += rewards
        lossSum += loss * Double(rewards.count / 2)
    }

    private var pairs: Int { rewards.count / 2 }
    private var margins: [Double] { (0..<pairs).map { rewards[2 * $0] - rewards[2 * $0 + 1] } }

    /// The share of pairs whose chosen side has the higher reward.
    var accuracy: Double { Double(margins.reduce(0) { $0 + ($1 > 0 ? 1 : 0) }) / Double(max(pairs, 1)) }

    /// Loss, accuracy, mean difference of the sides, mean and standard deviation of all rewards.
    var metrics: [TrainingMetric] {
        guard pairs > 0 else { return [TrainingMetric("loss", 0)] }
        let spread = RewardNormalization(rewards)
        return [
            TrainingMetric("loss", lossSum / Double(pairs)), TrainingMetric("accuracy", accuracy, isShown: true),
            TrainingMetric("margin", margins.reduce(0, +) / Double(pairs), isShown: true),
            TrainingMetric("reward_mean", spread.mean), TrainingMetric("reward_deviation", spread.deviation),
        ]
    }
}
