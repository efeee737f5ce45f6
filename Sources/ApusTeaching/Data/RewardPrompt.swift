import ApusText

/// What a policy is asked, and what a verifier may know about the answer.
public struct RewardPrompt: Sendable, Equatable {
    /// The question.
    public enum Content: Sendable, Equatable {
        /// Text: a user's message where there is a chat template, the text as it stands where there is none.
        case text(String)
        /// A conversation that ends before the answer.
        case messages([ChatMessage])
    }

    /// The question.
    public var content: Content
    /// The right answer, where the data have one.
    public var answer: String?

    /// A prompt from its parts.
    public init(_ content: Content, answer: String? = nil) {
        self.content = content
        self.answer = answer
    }

    /// The conversation: the text is a user's message.
    public var messages: [ChatMessage] {
        switch content {
        case .text(let text): [.user(text)]
        case .messages(let messages): messages
        }
    }

    /// For people: the text, or what the last message says.
    public var title: String {
        switch content {
        case .text(let text): text
        case .messages(let messages): messages.last?.content?.text ?? ""
        }
    }
}

/// Rows of prompts and preferences that cannot be used.
public enum TeachingDataError: Error, Equatable, CustomStringConvertible {
    /// A row without what it needs.
    case row(file: String, line: Int, problem: String)
    /// A file without rows.
    case empty(file: String, expected: String)
    /// Files with fewer pairs than a mix needs.
    case tooFew(files: [String], expected: Int, found: Int)
    /// Pairs of which none is short enough.
    case tooLong(files: [String], longest: Int)

    /// One sentence for people.
    public var description: String {
        switch self {
        case .row(let file, let line, let problem): "\(file), line \(line): \(problem)"
        case .tooFew(let files, let expected, let found):
            "\(files.joined(separator: ", ")): expected at least \(expected) preference pairs, found \(found)"
        case .tooLong(let files, let longest):
            "\(files.joined(separator: ", ")): expected pairs of which each side has at most \(longest) tokens "
                + "(data.sequence_length), found none"
        case .empty(let file, let expected): "\(file): expected at least one row with \(expected), found none"
        }
    }
}

extension RewardPrompt {
    /// Reads prompts from JSON Lines, plain or compressed: a row has `prompt` (text, or messages), `messages`, or `question`;
    /// `answer` is kept where it is text. Answers at the end of messages are left off.
    /// - Throws: ``TeachingDataError``, `TextDataError`.
    public static func read(_ file: String) throws -> [RewardPrompt] {
        var prompts: [RewardPrompt] = []
        try TeachingRows.forEach(in: file) { node throws(JSONError) in
            prompts.append(try RewardPrompt(node))
        }
        guard !prompts.isEmpty else { throw TeachingDataError.empty(file: file, expected: "a prompt") }
        return prompts
    }

    init(_ node: JSONNode) throws(JSONError) {
        if let prompt = try node.optional("prompt") {
            content = try Self.content(prompt)
        } else if let messages = try node.optional("messages") {
            content = try Self.content(messages)
        } else {
            content = .text(try node.child("question", expected: "a prompt, messages or a question").string())
        }
        answer = try node.optional("answer")?.value.stringValue
    }

    static func content(_ node: JSONNode) throws(JSONError) -> Content {
        if let text = node.value.stringValue {
            guard !text.isEmpty else { throw node.error(expected: "a prompt that is not empty") }
            return .text(text)
        }
        var messages: [ChatMessage] = []
        for element in try node.elements() { messages.append(try message(element)) }
        while messages.last?.role == "assistant" { messages.removeLast() }
        guard messages.contains(where: { $0.role == "user" }) else {
            throw node.error(expected: "messages with at least one of the user's")
        }
        return .messages(messages)
    }

    private static let roles = ["system", "user", "assistant", "tool"]

    /// A message of one of the roles that conversations have.
    static func message(_ node: JSONNode) throws(JSONError) -> ChatMessage {
        let message = try ChatMessage(node)
        guard roles.contains(message.role) else {
            throw try node.child("role").error(expected: "one of \(roles.joined(separator: ", "))")
        }
        return message
    }
}

/// Reads rows of JSON Lines and names the line of what is wrong.
enum TeachingRows {
    static func forEach(in file: String, _ body: (JSONNode) throws(JSONError) -> Void) throws {
        let reader = try TextReader(path: file, layout: TextLayout(form: .jsonLines))
        while let block = try reader.next() {
            for piece in block.pieces {
                do throws(JSONError) {
                    try body(JSONNode(try JSONValue(parsing: Array(block.bytes[piece.range])), name: "row"))
                } catch {
                    throw TeachingDataError.row(file: file, line: piece.line, problem: "\(error)")
                }
            }
        }
    }
}
