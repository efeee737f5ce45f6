/// One message of a conversation, in the form that chat templates and chat APIs share.
///
/// ```swift
/// let messages = [ChatMessage.system("Answer briefly."), .user("What is 2 + 2?")]
/// let text = try template.render(messages: messages)
/// ```
public struct ChatMessage: Sendable, Equatable {
    /// What a message says.
    public enum Content: Sendable, Equatable {
        /// Plain text.
        case text(String)
        /// Parts, each an object with a `type`: `{"type": "text", "text": "..."}`.
        case parts([JSONValue])

        /// The text, that of all text parts together.
        public var text: String {
            switch self {
            case .text(let text): text
            case .parts(let parts): parts.compactMap { $0["text"]?.stringValue }.joined()
            }
        }
    }

    /// A call of a tool by the model.
    public struct ToolCall: Sendable, Equatable {
        /// The identifier that the tool's answer refers to.
        public var id: String?
        /// The tool's name.
        public var name: String
        /// The arguments: an object, or whatever the model wrote where it wrote no JSON object.
        public var arguments: JSONValue

        /// A call of a tool.
        public init(id: String? = nil, name: String, arguments: JSONValue) {
            self.id = id
            self.name = name
            self.arguments = arguments
        }
    }

    /// Who speaks: "system", "user", "assistant", "tool", or what else a template knows.
    public var role: String
    /// What the message says; nil where it only calls tools.
    public var content: Content?
    /// The tools that the model calls.
    public var toolCalls: [ToolCall]
    /// The call that a tool's answer belongs to.
    public var toolCallID: String?
    /// The speaker's or the tool's name.
    public var name: String?
    /// What a reasoning model thought before it answered.
    public var reasoning: String?
    /// Members of the message's object that are none of the above.
    public var others: JSONObject

    /// A message from its parts.
    public init(
        role: String, content: Content?, toolCalls: [ToolCall] = [], toolCallID: String? = nil, name: String? = nil,
        reasoning: String? = nil, others: JSONObject = [:]
    ) {
        self.role = role
        self.content = content
        self.toolCalls = toolCalls
        self.toolCallID = toolCallID
        self.name = name
        self.reasoning = reasoning
        self.others = others
    }

    /// A system message.
    public static func system(_ text: String) -> ChatMessage { ChatMessage(role: "system", content: .text(text)) }

    /// A user's message.
    public static func user(_ text: String) -> ChatMessage { ChatMessage(role: "user", content: .text(text)) }

    /// The model's message.
    public static func assistant(_ text: String, toolCalls: [ToolCall] = []) -> ChatMessage {
        ChatMessage(role: "assistant", content: .text(text), toolCalls: toolCalls)
    }

    /// A tool's answer.
    public static func tool(_ text: String, callID: String? = nil, name: String? = nil) -> ChatMessage {
        ChatMessage(role: "tool", content: .text(text), toolCallID: callID, name: name)
    }
}

// MARK: JSON

extension ChatMessage {
    /// Reads a message of the OpenAI form. Arguments of tool calls written as a string are parsed where the string
    /// holds a JSON object, because most templates walk them.
    /// - Throws: `JSONError` that names the member which has the wrong form.
    public init(_ node: JSONNode) throws(JSONError) {
        let object = try node.object()
        var others = object
        for key in ["role", "content", "tool_calls", "tool_call_id", "name", "reasoning_content"] { others[key] = nil }
        var calls: [ToolCall] = []
        for call in try node.optional("tool_calls")?.elements() ?? [] { calls.append(try ToolCall(call)) }
        self.init(
            role: try node.string("role"), content: try node.optional("content").map(Content.init),
            toolCalls: calls, toolCallID: try node.optional("tool_call_id")?.string(),
            name: try node.optional("name")?.string(), reasoning: try node.optional("reasoning_content")?.string(),
            others: others)
    }

    /// The message as templates see it: `content` is there even where it is null, everything else only where it is
    /// set.
    public var json: JSONValue { json(argumentsAsText: false) }

    func json(argumentsAsText: Bool) -> JSONValue {
        var object: JSONObject = ["role": .string(role), "content": content?.json ?? .null]
        if let reasoning { object["reasoning_content"] = .string(reasoning) }
        if !toolCalls.isEmpty {
            object["tool_calls"] = .array(toolCalls.map { $0.json(argumentsAsText: argumentsAsText) })
        }
        if let toolCallID { object["tool_call_id"] = .string(toolCallID) }
        if let name { object["name"] = .string(name) }
        for member in others { object[member.key] = member.value }
        return .object(object)
    }
}

extension ChatMessage.Content {
    init(_ node: JSONNode) throws(JSONError) {
        switch node.value {
        case .string(let text): self = .text(text)
        case .array(let parts): self = .parts(parts)
        default: throw node.error(expected: "a string or an array of parts")
        }
    }

    var json: JSONValue {
        switch self {
        case .text(let text): .string(text)
        case .parts(let parts): .array(parts)
        }
    }
}

extension ChatMessage.ToolCall {
    init(_ node: JSONNode) throws(JSONError) {
        // The older form has name and arguments beside the identifier.
        let function = try node.optional("function") ?? node
        var arguments = try function.optional("arguments")?.value ?? [:]
        if case .string(let text) = arguments, let parsed = try? JSONValue(parsing: text), parsed.objectValue != nil {
            arguments = parsed
        }
        self.init(id: try node.optional("id")?.string(), name: try function.string("name"), arguments: arguments)
    }

    func json(argumentsAsText: Bool) -> JSONValue {
        var arguments = self.arguments
        if argumentsAsText, arguments.stringValue == nil { arguments = .string(arguments.serialized(.python)) }
        var object: JSONObject = [
            "type": "function", "function": ["name": .string(name), "arguments": arguments],
        ]
        if let id { object["id"] = .string(id) }
        return .object(object)
    }
}
