import ApusText

/// One request of a workload.
public struct BenchmarkRequest: Sendable {
    /// What the model is to go on from.
    public enum Prompt: Sendable {
        /// Token ids, which fix the length exactly.
        case tokens([Int32])
        /// Text.
        case text(String)
        /// A conversation: objects with `role` and `content`.
        case messages([JSONValue])
    }

    /// The prompt.
    public var prompt: Prompt
    /// Tokens of the prompt, where they are known.
    public var promptTokens: Int?
    /// Tokens to generate.
    public var outputTokens: Int

    /// A request from its parts.
    public init(prompt: Prompt, promptTokens: Int?, outputTokens: Int) {
        self.prompt = prompt
        self.promptTokens = promptTokens
        self.outputTokens = outputTokens
    }
}

/// What is the same in all requests.
public struct RequestOptions: Sendable {
    /// The model's name; nil asks the server for the first one it serves.
    public var model: String?
    /// Whether to use the chat endpoint.
    public var usesChat = false
    /// Divides the logits; 0 is greedy.
    public var temperature = 0.0
    /// Whether generation goes on past the end-of-sequence token (`ignore_eos`), so that lengths are exact.
    public var ignoresEnd = true
    /// Further members of the request's body.
    public var extra = JSONObject()

    /// Greedy completions of exact length.
    public init() {}

    /// The path and body of a request.
    func body(_ request: BenchmarkRequest, model: String) -> (path: String, json: String) {
        var body = JSONObject()
        body["model"] = .string(model)
        switch request.prompt {
        case .tokens(let ids): body["prompt"] = .array(ids.map { .integer(Int64($0)) })
        case .text(let text):
            if usesChat {
                body["messages"] = [["role": "user", "content": .string(text)]]
            } else {
                body["prompt"] = .string(text)
            }
        case .messages(let messages): body["messages"] = .array(messages)
        }
        let isChat = body["messages"] != nil
        body["max_tokens"] = .integer(Int64(request.outputTokens))
        body["temperature"] = .double(temperature)
        body["stream"] = true
        body["stream_options"] = ["include_usage": true]
        if ignoresEnd { body["ignore_eos"] = true }
        for member in extra { body[member.key] = member.value }
        return (isChat ? "/v1/chat/completions" : "/v1/completions", JSONValue.object(body).serialized())
    }
}
