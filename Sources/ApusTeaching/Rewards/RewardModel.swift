import ApusModels
import ApusSynchronization
import ApusTensor
import ApusText

/// A decoder with a score head of one label: Hugging Face's `...ForSequenceClassification`.
///
/// Has its own tokenizer and chat template: a conversation is written anew by them, whatever the policy's are. On the CPU
/// outputs of one prompt share the computation of the tokens that they have in common; on a GPU outputs of all prompts make
/// batches.
public final class RewardModel: RewardFunction {
    /// The path it was loaded from.
    public let name: String
    /// Writes conversations by its own template and tokenizer.
    public let encoder: RewardEncoder
    /// What its rewards are normalised with, where that was stored with it.
    public let normalization: RewardNormalization?
    /// The network.
    private let scorer: any SequenceScoring
    private let isOnGPU: Bool

    /// Its own tokenizer.
    public var tokenizer: Tokenizer { encoder.tokenizer }
    /// Its own chat template, where it has one.
    public var chatTemplate: ChatTemplate? { encoder.chatTemplate }

    /// Loads a reward model.
    /// - Parameters:
    ///   - path: a Hugging Face directory or a safetensors file in one.
    ///   - backend: where it decodes.
    ///   - operations: a GPU's, which the training form scores on, in place of the backend; nil for none. What has no training
    ///     form is scored on the backend all the same.
    ///   - context: tokens of a conversation at most; nil takes the model's own limit, at most 4096.
    /// - Throws: ``RewardError/notARewardModel(path:found:)``; what reading the files throws.
    public init(
        path: String, backend: any Backend = CPUBackend.shared, operations: DifferentiableOperations? = nil,
        context: Int? = nil
    ) throws {
        let checkpoint = try Checkpoints.open(path)
        switch checkpoint.configuration.head {
        case .score(labels: 1): break
        case .score(let labels): throw RewardError.notARewardModel(path: path, found: "\(labels) labels")
        case .languageModel: throw RewardError.notARewardModel(path: path, found: "a language-model head")
        }
        name = path
        encoder = RewardEncoder(
            tokenizer: try checkpoint.loadTokenizer(),
            chatTemplate: try checkpoint.chatTemplate().map { try ChatTemplate(source: $0) })
        normalization = try RewardNormalization(folder: path)
        if let operations, operations.backend.device != .cpu, TrainableDecoder.trains(checkpoint.configuration) {
            scorer = BatchScorer(try TrainableDecoder(checkpoint, on: operations), context: context)
            isOnGPU = true
        } else {
            scorer = SequenceScorer(try Decoder(checkpoint: checkpoint, backend: backend), context: context)
            isOnGPU = false
        }
    }

    /// See ``RewardFunction/rewards(of:prompt:)``.
    public func rewards(of outputs: [String], prompt: RewardPrompt) throws -> [Double] {
        try scorer.scores(try outputs.map { try encoder.tokens($0, prompt: prompt) })
    }

    /// See ``RewardFunction/rewards(of:)``: nil on the CPU.
    public func rewards(of groups: [RewardGroup]) throws -> [[Double]]? {
        guard isOnGPU else { return nil }
        let sequences = try encoded(groups)
        let scores = try scorer.scores(Array(sequences.joined()))
        var first = 0
        return groups.map { group in
            defer { first += group.outputs.count }
            return Array(scores[first..<first + group.outputs.count])
        }
    }

    /// The conversations of groups as tokens; several workers write them.
    private func encoded(_ groups: [RewardGroup]) throws -> [[[Int32]]] {
        let results = Locked([Result<[[Int32]], any Error>?](repeating: nil, count: groups.count))
        CPUBackend.shared.concurrently(groups.count) { [encoder, scorer, name] place in
            let group = groups[place]
            let result = Result {
                do {
                    return try group.outputs.map { output in
                        let tokens = try encoder.tokens(output, prompt: group.prompt)
                        try scorer.check(tokens)
                        return tokens
                    }
                } catch {
                    throw RewardError.failed(reward: name, prompt: group.index, problem: "\(error)")
                }
            }
            results.withLock { $0[place] = result }
        }
        return try results.withLock { $0 }.map { try $0!.get() }
    }
}
