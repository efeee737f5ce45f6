import ApusText

/// A conversation as tokens, with the ones that a model learns to say.
public struct ChatExample: Sendable, Equatable {
    /// All tokens.
    public var tokens: [Int32]
    /// Whether each token is part of an answer (its end token included).
    public var isAnswer: [Bool]

    /// A conversation. Precondition: a mark for each token.
    public init(tokens: [Int32], isAnswer: [Bool]) {
        precondition(tokens.count == isAnswer.count, "\(isAnswer.count) marks for \(tokens.count) tokens")
        self.tokens = tokens
        self.isAnswer = isAnswer
    }
}

/// Turns conversations into tokens by a model's chat template.
///
/// Each answer is tokenised apart from the prompt before it, as it is when the model generates it.
public struct ChatEncoder: Sendable {
    /// The template.
    public let template: ChatTemplate
    /// The model's tokenizer.
    public let tokenizer: Tokenizer
    private let extra: [String: JSONValue]

    /// An encoder for a model.
    public init(template: ChatTemplate, tokenizer: Tokenizer) {
        self.template = template
        self.tokenizer = tokenizer
        var extra: [String: JSONValue] = [:]
        for (name, id) in [("bos_token", tokenizer.namedTokens.bos), ("eos_token", tokenizer.namedTokens.eos)] {
            guard let id, let spelling = tokenizer.spelling(id) else { continue }
            extra[name] = .string(String(decoding: spelling, as: UTF8.self))
        }
        self.extra = extra
    }

    /// The tokens of a conversation, up to its last answer.
    /// - Parameters:
    ///   - file: for messages of errors.
    ///   - line: as `file`.
    /// - Returns: nil where nobody answers.
    /// - Throws: `TemplateError`, ``ChatDataError/template(file:line:turn:)``.
    public func encode(_ messages: [ChatMessage], file: String, line: Int) throws -> ChatExample? {
        var example = ChatExample(tokens: [], isAnswer: [])
        var written = ""
        for (turn, message) in messages.enumerated() where message.role == "assistant" && turn > 0 {
            let prompt = try template.render(
                messages: Array(messages[..<turn]), addGenerationPrompt: true, extra: extra)
            let whole = try template.render(
                messages: Array(messages[...turn]), addGenerationPrompt: false, extra: extra)
            guard prompt.utf8.starts(with: written.utf8), whole.utf8.starts(with: prompt.utf8) else {
                throw ChatDataError.template(file: file, line: line, turn: turn)
            }
            append(suffix(of: prompt, after: written), isAnswer: false, to: &example)
            append(suffix(of: whole, after: prompt), isAnswer: true, to: &example)
            written = whole
        }
        return example.isAnswer.contains(true) ? example : nil
    }

    private func suffix(of text: String, after prefix: String) -> String {
        String(decoding: text.utf8.dropFirst(prefix.utf8.count), as: UTF8.self)
    }

    /// What a template writes after the token that ends an answer (a newline, often) is not learnt.
    private func append(_ text: String, isAnswer: Bool, to example: inout ChatExample) {
        let tokens = tokenizer.encode(text, addSpecialTokens: false, parseSpecialTokens: true)
        var learns = isAnswer
        for token in tokens {
            example.tokens.append(token)
            example.isAnswer.append(learns)
            if token == tokenizer.namedTokens.eos { learns = false }
        }
    }
}
