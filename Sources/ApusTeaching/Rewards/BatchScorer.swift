import ApusModels
import ApusTensor

/// Scores by the training form of a model, in packed batches: for a GPU, which has no decoder with a score head.
///
/// Unchecked Sendable: one task at a time uses a backend, and so this.
package struct BatchScorer: SequenceScoring, @unchecked Sendable {
    private let model: TrainableDecoder
    private let context: Int

    /// Tokens of a batch at most, unless a single sequence has more.
    private static let tokens = 16_384

    /// A scorer, whose weights are frozen.
    /// - Parameter context: tokens of a sequence at most; nil takes the model's own limit, at most 4096.
    package init(_ model: TrainableDecoder, context: Int? = nil) {
        self.model = model
        self.context = context ?? min(model.configuration.maxPositions, 4096)
        model.visitParameters { $1.isTrainable = false }
    }

    package func check(_ tokens: [Int32]) throws {
        guard tokens.count <= context else { throw RewardError.tooLong(tokens: tokens.count, limit: context) }
        guard !tokens.isEmpty else { throw DecoderError.noTokens }
        let vocabulary = model.configuration.vocabularySize
        for (index, token) in tokens.enumerated() where token < 0 || Int(token) >= vocabulary {
            throw DecoderError.unknownToken(Int(token), index: index, vocabulary: vocabulary)
        }
    }

    package func scores(_ sequences: [[Int32]]) throws -> [Double] {
        for tokens in sequences { try check(tokens) }
        let parts = PolicyForward.parts(sequences, tokens: Self.tokens, \.count)
        let scores = withoutGradients {
            parts.map { part in
                let starts = part.reduce(into: [0]) { $0.append($0.last! + $1.count) }
                return model.scores(Array(part.joined()), model.batch(starts: starts))
            }
        }
        return try model.operations.backend.toHost(scores).flatMap { $0.floats.map(Double.init) }
    }
}
