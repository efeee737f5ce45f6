import ApusModels
import ApusTensor
import ApusTraining

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// A preference pair as a policy reads it.
public struct PolicyPair: Sendable, Equatable {
    /// The prompt's tokens.
    public var prompt: [Int32]
    /// The better answer's tokens, its end included.
    public var chosen: [Int32]
    /// The worse answer's.
    public var rejected: [Int32]

    /// A pair.
    public init(prompt: [Int32], chosen: [Int32], rejected: [Int32]) {
        self.prompt = prompt
        self.chosen = chosen
        self.rejected = rejected
    }

    /// Tokens that a step computes for it.
    var tokenCount: Int { 2 * prompt.count + chosen.count + rejected.count }
}

/// Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290): -log sigmoid(beta h), h being how much more the policy
/// prefers the chosen answer than the reference does, in log-probabilities.
public final class DirectPreferenceObjective: TrainingObjective {
    private let model: TrainableDecoder
    private let reference: TrainableDecoder
    private let train: [PolicyPair]
    private let heldOut: [PolicyPair]
    private let settings: Recipe.PolicyGradient
    private let batchSize: Int
    private let seed: UInt64
    private var figures = Figures()

    /// What pairs gave.
    package struct Figures {
        package var pairs = 0
        package var loss = 0.0
        package var correct = 0
        /// Sums of beta (log policy - log reference) of the chosen and the rejected sides.
        package var chosen = 0.0
        package var rejected = 0.0
    }

    /// DPO of a model on pairs.
    /// - Parameters:
    ///   - batchSize: pairs of an optimiser step.
    ///   - seed: of the pairs' order.
    public init(
        _ model: TrainableDecoder, reference: TrainableDecoder, train: [PolicyPair], heldOut: [PolicyPair],
        settings: Recipe.PolicyGradient, batchSize: Int, seed: UInt64
    ) {
        precondition(!train.isEmpty, "no pairs")
        self.model = model
        self.reference = reference
        self.train = train
        self.heldOut = heldOut
        self.settings = settings
        self.batchSize = batchSize
        self.seed = seed
    }

    /// See `TrainingObjective`.
    public func microBatches(step: Int) throws -> [MicroBatch] {
        figures = Figures()
        let order = PromptOrder(count: train.count, seed: seed)
        let pairs = (step * batchSize..<(step + 1) * batchSize).map { train[order[$0]] }
        return PolicyForward.parts(pairs, tokens: settings.microBatchTokens, \.tokenCount).map { part in
            MicroBatch(weight: 1, tokens: part.reduce(0) { $0 + $1.tokenCount }) { [self] in
                loss(part, share: 1 / Double(pairs.count)) { self.figures.add($0) }.loss
            }
        }
    }

    /// See `TrainingObjective`.
    public func finishStep() -> [TrainingMetric] { figures.metrics }

    /// Loss and accuracy over the held-out pairs.
    public func evaluate() throws -> TrainingEvaluation? {
        guard !heldOut.isEmpty else { return nil }
        var total = Figures()
        withoutGradients {
            for part in PolicyForward.parts(heldOut, tokens: settings.microBatchTokens, \.tokenCount) {
                _ = loss(part, share: 1 / Double(heldOut.count)) { total.add($0) }
            }
        }
        let mean = total.loss / Double(total.pairs)
        return TrainingEvaluation(
            metrics: [TrainingMetric("loss", mean)] + total.metrics, count: heldOut.count, unit: "pairs", score: -mean)
    }

    /// The loss of some pairs, each with a factor.
    private func loss(
        _ pairs: [PolicyPair], share: Double, _ report: @escaping (Figures) -> Void
    ) -> (loss: Tensor, logProbabilities: [Float]) {
        let outputs = pairs.flatMap {
            [(prompt: $0.prompt, tokens: $0.chosen), (prompt: $0.prompt, tokens: $0.rejected)]
        }
        let forward = PolicyForward(outputs)
        let before = PolicyForward.figures(reference, outputs, microBatchTokens: settings.microBatchTokens)
            .map { $0.logProbabilities.reduce(0.0) { $0 + Double($1) } }
        let lengths = outputs.map(\.tokens.count)
        let beta = settings.kl
        return model.operations.crossEntropy(
            forward.hidden(model), head: model.headWeight, targets: forward.targets,
            LogProbabilityLoss(isRowwise: false) { _, logProbabilities in
                let (value, derivatives, found) = Self.pairLoss(
                    logProbabilities, lengths: lengths, reference: before, beta: beta, share: share)
                report(found)
                return (value, derivatives)
            })
    }

    /// The loss of pairs from their tokens' log-probabilities, chosen and rejected side by side, and its derivatives.
    package static func pairLoss(
        _ logProbabilities: [Float], lengths: [Int], reference: [Double], beta: Double, share: Double
    ) -> (value: Double, derivatives: [Float], figures: Figures) {
        var (figures, derivatives, first) = (Figures(), [Float](), 0)
        for pair in 0..<lengths.count / 2 {
            let sides = (0..<2).map { side -> Double in
                let range = first..<first + lengths[2 * pair + side]
                first = range.upperBound
                let sum = logProbabilities[range].reduce(0.0) { $0 + Double($1) }
                return beta * (sum - reference[2 * pair + side])
            }
            let margin = sides[0] - sides[1]
            // log(1 + exp(-margin)), whatever its size.
            figures.loss += max(-margin, 0) + log1p(exp(-abs(margin)))
            figures.pairs += 1
            figures.correct += margin > 0 ? 1 : 0
            figures.chosen += sides[0]
            figures.rejected += sides[1]
            let slope = -beta * share / (1 + exp(min(margin, 700)))
            derivatives += Array(repeating: Float(slope), count: lengths[2 * pair])
            derivatives += Array(repeating: Float(-slope), count: lengths[2 * pair + 1])
        }
        return (figures.loss * share, derivatives, figures)
    }
}

extension DirectPreferenceObjective.Figures {
    mutating func add(_ other: Self) {
        pairs += other.pairs
        loss += other.loss
        correct += other.correct
        chosen += other.chosen
        rejected += other.rejected
    }

    var metrics: [TrainingMetric] {
        let count = Double(max(pairs, 1))
        return [
            TrainingMetric("accuracy", Double(correct) / count, isShown: true),
            TrainingMetric("margin", (chosen - rejected) / count), TrainingMetric("chosen_reward", chosen / count),
            TrainingMetric("rejected_reward", rejected / count),
        ]
    }
}
