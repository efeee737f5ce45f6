import ApusModels
import ApusTensor
import ApusText

/// A decoder with a score head of one label: Hugging Face's `...ForSequenceClassification`.
///
/// Has its own tokenizer and chat template: a conversation is written anew by them, whatever the policy's are. Outputs of one
/// prompt share the computation of the tokens that they have in common.
public final class RewardModel: RewardFunction {
    /// The path it was loaded from.
    public let name: String
    /// Writes conversations by its own template and tokenizer.
    public let encoder: RewardEncoder
    /// What its rewards are normalised with, where that was stored with it.
    public let normalization: RewardNormalization?
    /// The network.
    public let scorer: SequenceScorer

    /// Its own tokenizer.
    public var tokenizer: Tokenizer { encoder.tokenizer }
    /// Its own chat template, where it has one.
    public var chatTemplate: ChatTemplate? { encoder.chatTemplate }

    /// Loads a reward model.
    /// - Parameters:
    ///   - path: a Hugging Face directory or a safetensors file in one.
    ///   - context: tokens of a conversation at most; nil takes the model's own limit, at most 4096.
    /// - Throws: ``RewardError/notARewardModel(path:found:)``; what reading the files throws.
    public init(path: String, backend: any Backend = CPUBackend.shared, context: Int? = nil) throws {
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
        scorer = SequenceScorer(try Decoder(checkpoint: checkpoint, backend: backend), context: context)
    }

    /// See ``RewardFunction/rewards(of:prompt:)``.
    public func rewards(of outputs: [String], prompt: RewardPrompt) throws -> [Double] {
        try scorer.scores(try outputs.map { try encoder.tokens($0, prompt: prompt) })
    }
}
