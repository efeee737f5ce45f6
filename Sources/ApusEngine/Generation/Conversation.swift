import ApusText

/// The turns of a chat.
public struct Conversation: Sendable {
    /// System message, user messages and answers, in order.
    public private(set) var messages: [ChatMessage] = []
    private let system: String?

    /// An empty conversation, with a system message when one is given.
    public init(system: String? = nil) {
        self.system = system
        clear()
    }

    /// Forgets every turn; the system message stays.
    public mutating func clear() {
        messages = system.map { [.system($0)] } ?? []
    }

    /// Adds what the user said.
    public mutating func append(user text: String) { messages.append(.user(text)) }

    /// Adds what the model answered.
    public mutating func append(answer text: String) { messages.append(.assistant(text)) }

    /// Takes the last user message, and the answer to it, back.
    public mutating func undo() {
        guard let last = messages.lastIndex(where: { $0.role == "user" }) else { return }
        messages.removeSubrange(last...)
    }

    /// The conversation as text, a message a paragraph.
    public var transcript: String {
        messages.map { "\($0.role): \($0.content?.text ?? "")\n" }.joined()
    }
}
