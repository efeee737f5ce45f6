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
    /// Its own tokenizer.
    public let tokenizer: Tokenizer
    /// Its own chat template, where it has one.
    public let chatTemplate: ChatTemplate?
    /// The network.
    public let scorer: SequenceScorer
    private let extra: [String: JSONValue]

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
        tokenizer = try checkpoint.loadTokenizer()
        chatTemplate = try checkpoint.chatTemplate().map { try ChatTemplate(source: $0) }
        scorer = SequenceScorer(try Decoder(checkpoint: checkpoint, backend: backend), context: context)
        var extra: [String: JSONValue] = [:]
        for (key, id) in [("bos_token", tokenizer.namedTokens.bos), ("eos_token", tokenizer.namedTokens.eos)] {
            guard let id, let spelling = tokenizer.spelling(id) else { continue }
            extra[key] = .string(String(decoding: spelling, as: UTF8.self))
        }
        self.extra = extra
    }

    /// The tokens that the model reads: the conversation with the output as the assistant's answer through the chat template,
    /// or the prompt's text and the output one after the other.
    public func tokens(_ output: String, prompt: RewardPrompt) throws -> [Int32] {
        guard let chatTemplate else {
            return tokenizer.encode(prompt.messages.compactMap { $0.content?.text }.joined(separator: "\n") + output)
        }
        let text = try chatTemplate.render(
            messages: prompt.messages + [.assistant(output)], addGenerationPrompt: false, extra: extra)
        return tokenizer.encode(text, addSpecialTokens: false, parseSpecialTokens: true)
    }

    /// See ``RewardFunction/rewards(of:prompt:)``.
    public func rewards(of outputs: [String], prompt: RewardPrompt) throws -> [Double] {
        try scorer.scores(try outputs.map { try tokens($0, prompt: prompt) })
    }
}
