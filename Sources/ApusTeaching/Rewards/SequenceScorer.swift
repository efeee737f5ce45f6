import ApusAttention
import ApusModels
import ApusTensor

/// Scores token sequences by a model with a score head of one label.
package protocol SequenceScoring: Sendable {
    /// Holds a sequence against the model's limits.
    /// - Throws: ``RewardError/tooLong(tokens:limit:)``, `DecoderError`.
    func check(_ tokens: [Int32]) throws

    /// Scores at the last token of each sequence, in order.
    /// - Throws: as ``check(_:)``; what fails on a device.
    func scores(_ sequences: [[Int32]]) throws -> [Double]
}

/// Scores by a decoder; what all sequences of a call begin with is computed once.
public struct SequenceScorer: SequenceScoring {
    /// The network.
    public let decoder: Decoder
    /// Tokens of a sequence at most.
    public let context: Int

    /// Tokens that one step computes at most, beyond the longest sequence's.
    private static let stepTokens = 1024

    /// A scorer.
    /// - Parameter context: tokens of a sequence at most; nil takes the model's own limit, at most 4096.
    public init(_ decoder: Decoder, context: Int? = nil) {
        self.decoder = decoder
        self.context = context ?? min(decoder.configuration.maxPositions, 4096)
    }

    package func check(_ tokens: [Int32]) throws {
        guard tokens.count <= context else { throw RewardError.tooLong(tokens: tokens.count, limit: context) }
        try decoder.check(tokens)
    }

    /// Scores at the last token of each sequence, in order.
    /// - Throws: ``RewardError/tooLong(tokens:limit:)``, `DecoderError`.
    public func scores(_ sequences: [[Int32]]) throws -> [Double] {
        guard let first = sequences.first else { return [] }
        for tokens in sequences { try check(tokens) }
        // At least the last token of each is computed apart.
        let longest = sequences.map(\.count).max()!
        var common = 0
        while common < sequences.map(\.count).min()! - 1, sequences.allSatisfy({ $0[common] == first[common] }) {
            common += 1
        }
        let cache = try decoder.makeCache(tokens: longest, sequences: sequences.count + 1)
        let root = cache.makeSequence()
        var rest = first[..<common]
        while !rest.isEmpty {
            let step = rest.prefix(Self.stepTokens)
            _ = try decoder.forward(
                [DecoderInput(tokens: Array(step), sequence: root, logits: .none)], cache: cache)
            rest = rest.dropFirst(step.count)
        }
        var scores: [Double] = []
        var inputs: [DecoderInput] = []
        var count = 0
        func run() throws {
            guard !inputs.isEmpty else { return }
            scores += try decoder.forward(inputs, cache: cache).floats.map(Double.init)
            inputs = []
            count = 0
        }
        for tokens in sequences {
            let own = Array(tokens[common...])
            inputs.append(DecoderInput(tokens: own, sequence: try cache.fork(root), logits: .last))
            count += own.count
            if count >= Self.stepTokens { try run() }
        }
        try run()
        return scores
    }
}
