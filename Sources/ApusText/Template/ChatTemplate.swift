/// A model's chat template: Jinja, as transformers runs it.
///
/// Parsed once, it renders any number of conversations, from any number of threads. `docs/chat-templates.md` says
/// what of Jinja and Python is there.
///
/// ```swift
/// let template = try ChatTemplate(source: "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}")
/// try template.render(messages: [.user("Hi")])  // <user>Hi
/// ```
public struct ChatTemplate: Sendable {
    /// The template's text.
    public let source: String
    /// What a run may use up.
    public var limits = TemplateLimits()
    private let statements: [TemplateStatement]

    /// Parses a template.
    /// - Throws: `TemplateError.syntax`, `.unsupported` or `.limit` with line and column.
    public init(source: String) throws(TemplateError) {
        self.source = source
        statements = try TemplateParser.statements(of: source)
    }

    /// Renders messages.
    ///
    /// Templates take the arguments of tool calls as an object or as a string, and do not say which; where rendering
    /// with objects ends in an error, strings are tried.
    /// - Parameters:
    ///   - messages: the conversation.
    ///   - tools: an array of tool descriptions (JSON schema), or nil.
    ///   - documents: an array of documents to answer from, or nil.
    ///   - addGenerationPrompt: whether the text ends with what begins the model's answer.
    ///   - extra: further variables: `bos_token`, `eos_token`, `enable_thinking`.
    ///   - now: seconds since 1970 that `strftime_now` shows; nil for the clock.
    /// - Returns: the text, special tokens included.
    /// - Throws: `TemplateError`.
    public func render(
        messages: [ChatMessage], tools: JSONValue? = nil, documents: JSONValue? = nil,
        addGenerationPrompt: Bool = true, extra: [String: JSONValue] = [:], now: Int? = nil
    ) throws(TemplateError) -> String {
        do throws(TemplateError) {
            return try render(
                messages: .array(messages.map(\.json)), tools: tools, documents: documents,
                addGenerationPrompt: addGenerationPrompt, extra: extra, now: now)
        } catch {
            let hasObjects = messages.contains { $0.toolCalls.contains { $0.arguments.stringValue == nil } }
            guard case .evaluation = error, hasObjects else { throw error }
            let result = try? render(
                messages: .array(messages.map { $0.json(argumentsAsText: true) }), tools: tools, documents: documents,
                addGenerationPrompt: addGenerationPrompt, extra: extra, now: now)
            guard let result else { throw error }
            return result
        }
    }

    /// Renders messages given as an array of objects, which the template sees as they are.
    /// See `render(messages:tools:documents:addGenerationPrompt:extra:now:)`.
    public func render(
        messages: JSONValue, tools: JSONValue? = nil, documents: JSONValue? = nil, addGenerationPrompt: Bool = true,
        extra: [String: JSONValue] = [:], now: Int? = nil
    ) throws(TemplateError) -> String {
        var variables: JSONObject = [
            "messages": messages, "tools": tools ?? .null, "documents": documents ?? .null,
            "add_generation_prompt": .bool(addGenerationPrompt),
        ]
        for (name, value) in extra { variables[name] = value }
        return try render(variables: variables, now: now)
    }

    /// Renders with exactly these variables.
    package func render(variables: JSONObject, now: Int? = nil) throws(TemplateError) -> String {
        try TemplateInterpreter.render(statements, variables: variables, limits: limits, now: now)
    }
}

/// Parses arbitrary bytes as a template and renders a conversation with it under tight limits.
package func fuzzTemplate(_ bytes: UnsafeRawBufferPointer) {
    let source = String(decoding: bytes, as: UTF8.self)
    guard var template = try? ChatTemplate(source: source) else { return }
    template.limits = TemplateLimits(steps: 20_000, workBytes: 1 << 20, outputBytes: 1 << 18)
    let call = ChatMessage.ToolCall(id: "call_1", name: "add", arguments: ["a": 1, "b": [2.5, nil, true]])
    _ = try? template.render(
        messages: [
            .system("Be brief."), .user("Héllo <b>\n"), .assistant("", toolCalls: [call]),
            .tool("3.5", callID: "call_1", name: "add"),
        ],
        tools: [["type": "function", "function": ["name": "add", "parameters": ["type": "object"]]]],
        extra: ["bos_token": "<s>", "eos_token": "</s>"], now: 0)
}
