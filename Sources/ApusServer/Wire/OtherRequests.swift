import ApusText

/// The body of a request for embeddings.
struct EmbeddingRequest: Sendable {
    var model: String?
    var inputs: [TextInput]
    /// Base 64 of little-endian float32 instead of an array of numbers.
    var base64 = false
    var dimensions: Int?

    init(_ fields: RequestFields) throws(APIError) {
        model = try fields.string("model")
        inputs = try fields.inputs("input", limit: CompletionRequest.promptLimit)
        base64 = try fields.choice("encoding_format", ["float", "base64"]) == "base64"
        dimensions = try fields.int("dimensions", 1...Int(Int32.max))
    }
}

/// The body of a request for scores: texts, or conversations that end with the answer to score.
struct ScoreRequest: Sendable {
    /// What is scored.
    enum Subject: Sendable {
        case inputs([TextInput])
        case conversations([[ChatMessage]])
    }

    var model: String?
    var subject: Subject

    init(_ fields: RequestFields) throws(APIError) {
        model = try fields.string("model")
        guard let messages = try fields.optional("messages") else {
            subject = .inputs(try fields.inputs("input", limit: CompletionRequest.promptLimit))
            return
        }
        do throws(JSONError) {
            let elements = try messages.elements()
            guard let first = elements.first, case .array = first.value else {
                subject = .conversations([try ChatRequest.conversation(messages)])
                return
            }
            guard elements.count <= CompletionRequest.promptLimit else {
                throw messages.error(expected: "at most \(CompletionRequest.promptLimit) conversations")
            }
            var conversations: [[ChatMessage]] = []
            for element in elements { conversations.append(try ChatRequest.conversation(element)) }
            subject = .conversations(conversations)
        } catch { throw APIError(error) }
    }
}

/// The body of a request for the tokens of a text or a conversation.
struct TokenizeRequest: Sendable {
    /// What becomes tokens.
    enum Subject: Sendable {
        case text(String)
        case conversation([ChatMessage], tools: [ToolDefinition], addGenerationPrompt: Bool)
    }

    var model: String?
    var subject: Subject
    var addSpecialTokens: Bool
    var returnsSpellings: Bool

    init(_ fields: RequestFields) throws(APIError) {
        model = try fields.string("model")
        returnsSpellings = try fields.bool("return_token_strs") ?? false
        if let messages = try fields.optional("messages") {
            subject = .conversation(
                try ChatRequest.messages(messages), tools: try ToolDefinition.list(fields),
                addGenerationPrompt: try fields.bool("add_generation_prompt") ?? true)
            addSpecialTokens = try fields.bool("add_special_tokens") ?? false
            return
        }
        let prompt = try fields.required("prompt", "a string")
        do throws(JSONError) { subject = .text(try prompt.string()) } catch { throw APIError(error) }
        addSpecialTokens = try fields.bool("add_special_tokens") ?? true
    }
}

/// The body of a request for the text of tokens.
struct DetokenizeRequest: Sendable {
    var model: String?
    var tokens: [Int32]

    init(_ fields: RequestFields) throws(APIError) {
        model = try fields.string("model")
        let node = try fields.required("tokens", "an array of token ids")
        do throws(JSONError) { tokens = try RequestFields.tokens(node) } catch { throw APIError(error) }
    }
}
