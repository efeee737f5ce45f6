import ApusModels
import ApusTensor

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Predicting the next token: cross-entropy of the targets of batches, on text and on conversations alike.
public final class CrossEntropyObjective: TrainingObjective {
    private let model: TrainableDecoder
    private let data: any BatchSource
    private let accumulation: Int
    private let share: BatchShare
    private var prepared: (step: Int, parts: [PackedBatch])?

    /// The objective of a model on batches.
    /// - Parameters:
    ///   - accumulation: micro-batches of a step.
    ///   - share: the part of each batch that this replica computes; losses are parts of the step's then.
    public init(
        _ model: TrainableDecoder, data: any BatchSource, accumulation: Int, share: BatchShare = .whole
    ) {
        self.model = model
        self.data = data
        self.accumulation = accumulation
        self.share = share
    }

    /// See ``TrainingObjective/microBatches(step:)``: a step's loss is the mean over all its targets, however they are spread
    /// over micro-batches.
    public func microBatches(step: Int) throws -> [MicroBatch] {
        let parts = try prepared.flatMap { $0.step == step ? $0.parts : nil } ?? batches(step: step)
        prepared = nil
        let targets = Double(max(parts.reduce(0) { $0 + $1.countedTargets }, 1))
        // A replica may have no sequence of a short batch.
        return parts.map { $0.share(share) }.filter { !$0.tokens.isEmpty }.map { [model] batch in
            MicroBatch(weight: Double(batch.countedTargets) / targets, tokens: batch.tokens.count) {
                model.loss(batch.tokens, targets: batch.targets, model.batch(starts: batch.starts)).loss
            }
        }
    }

    private func batches(step: Int) throws -> [PackedBatch] {
        try (0..<accumulation).map { try data.batch(step: step, part: $0) }
    }

    /// See ``TrainingObjective/prepare(step:)``. An error shows when the step is made.
    public func prepare(step: Int) { prepared = (try? batches(step: step)).map { (step, $0) } }

    /// Mean cross-entropy over the held-out batches in nats.
    public func evaluate() throws -> TrainingEvaluation? {
        var (total, count) = (0.0, 0)
        for index in 0..<data.evaluationBatches where index % share.replicas == share.replica {
            let batch = try data.evaluationBatch(index)
            let logProbabilities = withoutGradients {
                model.loss(batch.tokens, targets: batch.targets, model.batch(starts: batch.starts))
                    .logProbabilities.floats
            }
            try model.operations.backend.check()
            total -= logProbabilities.reduce(0.0) { $0 + Double($1) }
            count += batch.countedTargets
        }
        let sums = try share.sum([total, Double(count)])
        (total, count) = (sums[0], Int(sums[1]))
        guard count > 0 else { return nil }
        let loss = total / Double(count)
        return TrainingEvaluation(
            metrics: [TrainingMetric("loss", loss), TrainingMetric("perplexity", exp(loss))], count: count,
            unit: "tokens", score: -loss)
    }
}
