import ApusEngine
import ApusText
import FoundationEssentials

extension APIService {
    /// Seconds since 1970.
    var now: Int { Int(Date().timeIntervalSince1970) }

    /// When a request that has arrived with this context must have finished.
    func deadline(_ context: APIContext) -> ContinuousClock.Instant {
        context.record.start + configuration.requestTimeout
    }

    /// Tells the tokens that end an output.
    func endPredicate(_ sampling: SamplingParameters) -> @Sendable (Int32) -> Bool {
        if sampling.ignoreEndOfSequence { return { _ in false } }
        return { [model] in model.endsSequence($0) }
    }

    /// Waits for a generation, and ends it when the client leaves.
    func collect(_ generation: RunningGeneration, usage: Usage, _ context: APIContext) async throws
        -> CollectedGeneration
    {
        await context.onClientLeaving { generation.cancel() }
        let result: CollectedGeneration
        do {
            result = try await generation.collect(usage: usage)
        } catch {
            generation.cancel()
            await context.onClientLeaving(nil)
            throw error
        }
        await context.onClientLeaving(nil)
        context.record.update { $0.usage = result.usage }
        return result
    }

    /// The tokens of a conversation.
    func chatTokens(_ body: ChatRequest) throws(APIError) -> [Int32] {
        let tools = body.toolChoice == .none ? [] : body.tools
        return try chatTokens(
            body.messages, tools: tools, addGenerationPrompt: body.addGenerationPrompt,
            variables: body.templateVariables)
    }

    /// The tokens of a conversation.
    func chatTokens(
        _ messages: [ChatMessage], tools: [ToolDefinition], addGenerationPrompt: Bool,
        variables: [String: JSONValue] = [:]
    ) throws(APIError) -> [Int32] {
        guard let template = model.chatTemplate else {
            throw .invalid(
                "the model's files hold no chat template; use /v1/completions", parameter: "messages",
                code: "no_chat_template")
        }
        var extra = variables
        let named = model.tokenizer.namedTokens
        for (name, id) in [("bos_token", named.bos), ("eos_token", named.eos)] {
            guard extra[name] == nil, let id, let spelling = model.tokenizer.spelling(id) else { continue }
            extra[name] = .string(String(decoding: spelling, as: UTF8.self))
        }
        let text: String
        do {
            text = try template.render(
                messages: messages, tools: tools.isEmpty ? nil : .array(tools.map(\.json)),
                addGenerationPrompt: addGenerationPrompt, extra: extra)
        } catch {
            throw .invalid("messages: the model's chat template refuses them: \(error)", parameter: "messages")
        }
        return model.tokenizer.encode(text, addSpecialTokens: false, parseSpecialTokens: true)
    }
}
