import ApusText

/// Writes a prompt and an output as the tokens that a reward model reads, whatever the policy's template is.
public struct RewardEncoder: Sendable {
    /// The reward model's tokenizer.
    public let tokenizer: Tokenizer
    /// Its chat template, where it has one.
    public let chatTemplate: ChatTemplate?
    private let extra: [String: JSONValue]

    /// An encoder.
    public init(tokenizer: Tokenizer, chatTemplate: ChatTemplate?) {
        self.tokenizer = tokenizer
        self.chatTemplate = chatTemplate
        var extra: [String: JSONValue] = [:]
        for (key, id) in [("bos_token", tokenizer.namedTokens.bos), ("eos_token", tokenizer.namedTokens.eos)] {
            guard let id, let spelling = tokenizer.spelling(id) else { continue }
            extra[key] = .string(String(decoding: spelling, as: UTF8.self))
        }
        self.extra = extra
    }

    /// The conversation with the output as the assistant's answer through the chat template, or the prompt's text and the
    /// output one after the other.
    /// - Throws: `TemplateError`.
    public func tokens(_ output: String, prompt: RewardPrompt) throws -> [Int32] {
        guard let chatTemplate else {
            return tokenizer.encode(prompt.messages.compactMap { $0.content?.text }.joined(separator: "\n") + output)
        }
        let text = try chatTemplate.render(
            messages: prompt.messages + [.assistant(output)], addGenerationPrompt: false, extra: extra)
        return tokenizer.encode(text, addSpecialTokens: false, parseSpecialTokens: true)
    }
}
