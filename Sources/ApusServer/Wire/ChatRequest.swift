import ApusEngine
import ApusText

/// The body of a request for chat completions.
struct ChatRequest: Sendable {
    var common: GenerationFields
    var messages: [ChatMessage]
    var tools: [ToolDefinition]
    var toolChoice: ToolChoice
    var parallelToolCalls = true
    var responseFormat: ResponseFormat
    /// Further variables of the chat template, such as `enable_thinking`.
    var templateVariables: [String: JSONValue] = [:]
    var addGenerationPrompt = true

    init(_ fields: RequestFields, defaults: SamplingParameters) throws(APIError) {
        common = try GenerationFields(fields, defaults: defaults)
        messages = try Self.messages(try fields.required("messages", "a non-empty array of messages"))
        if try fields.bool("logprobs") ?? false { common.sampling.logprobs = 0 }
        if let count = try fields.int("top_logprobs", 0...GenerationFields.alternativesLimit) {
            guard common.sampling.logprobs != nil || count == 0 else {
                throw .invalid("top_logprobs: only where logprobs is true", parameter: "top_logprobs")
            }
            if common.sampling.logprobs != nil { common.sampling.logprobs = count }
        }
        let limit = 1...Int(Int32.max)
        let older = try fields.int("max_tokens", limit)
        common.maxTokens = try fields.int("max_completion_tokens", limit) ?? older
        tools = try ToolDefinition.list(fields)
        toolChoice = try ToolChoice(fields, tools: tools)
        parallelToolCalls = try fields.bool("parallel_tool_calls") ?? true
        responseFormat = try ResponseFormat(fields)
        addGenerationPrompt = try fields.bool("add_generation_prompt") ?? true
        if let variables = try fields.optional("chat_template_kwargs") {
            guard case .object(let members) = variables.value else {
                throw APIError(variables.error(expected: "an object"))
            }
            for member in members { templateVariables[member.key] = member.value }
        }
        for key in ["functions", "function_call", "audio", "prediction", "web_search_options"] {
            try fields.refuse(key)
        }
        try fields.refuse("modalities", neutral: ["text"])
    }

    /// Reads messages; only text can be in them.
    static func messages(_ node: JSONNode) throws(APIError) -> [ChatMessage] {
        do { return try conversation(node) } catch { throw APIError(error) }
    }

    static func conversation(_ node: JSONNode) throws(JSONError) -> [ChatMessage] {
        var result: [ChatMessage] = []
        for element in try node.elements() {
            try checkParts(element)
            var message = try ChatMessage(element)
            // Where a message only calls tools: many templates join its content to other text.
            if message.content == nil { message.content = .text("") }
            result.append(message)
        }
        guard !result.isEmpty else { throw node.error(expected: "a non-empty array of messages") }
        return result
    }

    private static func checkParts(_ message: JSONNode) throws(JSONError) {
        guard let content = try message.optional("content"), case .array = content.value else { return }
        for part in try content.elements() {
            let type = try part.child("type", expected: "text")
            guard try ["text", "refusal"].contains(type.string()) else { throw type.error(expected: "text") }
            _ = try part.string(try type.string())
        }
    }
}
