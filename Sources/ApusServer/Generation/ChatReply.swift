import ApusEngine
import ApusText

/// Writes the answers of the chat endpoint.
struct ChatReply: Sendable {
    let id: String
    let created: Int
    let model: String
    let logprobs: LogprobsWriter?
    let tools: ToolUse?

    /// The writer of a stream.
    func encoder(samples: Int, includesUsage: Bool) -> ChatEncoder {
        let frame = ChunkFrame(
            id: id, object: "chat.completion.chunk", created: created, model: model, includesUsage: includesUsage)
        return ChatEncoder(frame: frame, logprobs: logprobs, tools: tools, samples: samples)
    }

    /// The answer in one piece.
    func whole(_ generation: CollectedGeneration) -> JSONBytes {
        var json = JSONBytes(capacity: 512)
        json.raw("{\"id\":")
        json.string(id)
        json.raw(",\"object\":\"chat.completion\",\"created\":")
        json.integer(created)
        json.raw(",\"model\":")
        json.string(model)
        json.raw(",\"choices\":[")
        for (index, sample) in generation.samples[0].enumerated() {
            json.raw(index == 0 ? "{\"index\":" : ",{\"index\":")
            json.integer(index)
            json.raw(",\"message\":{\"role\":\"assistant\",\"content\":")
            let calls = message(sample, into: &json)
            json.raw(",\"refusal\":null},\"logprobs\":")
            if let logprobs { logprobs.chat(sample.tokens, into: &json) } else { json.raw("null") }
            json.raw(",\"finish_reason\":")
            json.raw(calls > 0 && sample.reason == .stop ? "\"tool_calls\"" : sample.reason.wireName)
            json.raw("}")
        }
        json.raw("],\"usage\":")
        generation.usage.write(into: &json)
        json.raw("}")
        return json
    }

    /// Writes an answer's content, and its calls of tools behind it.
    /// - Returns: how many calls there are.
    private func message(_ sample: CollectedSample, into json: inout JSONBytes) -> Int {
        guard let tools else {
            json.string(sample.text)
            return 0
        }
        var parser = tools.parser(isIncremental: false)
        var content = ""
        var calls: [(id: String, name: String, arguments: String)] = []
        for event in tools.wanted(parser.push(sample.text) + parser.finish()) {
            switch event {
            case .content(let text): content += text
            case .call(_, let id, let name): calls.append((id, name, ""))
            case .arguments(let index, let text): calls[index].arguments += text
            }
        }
        if content.isEmpty && !calls.isEmpty { json.raw("null") } else { json.string(content) }
        guard !calls.isEmpty else { return 0 }
        json.raw(",\"tool_calls\":[")
        for (place, call) in calls.enumerated() {
            json.raw(place == 0 ? "{\"id\":" : ",{\"id\":")
            json.string(call.id)
            json.raw(",\"type\":\"function\",\"function\":{\"name\":")
            json.string(call.name)
            json.raw(",\"arguments\":")
            json.string(call.arguments)
            json.raw("}}")
        }
        json.raw("]")
        return calls.count
    }
}
