import ApusEngine
import ApusText

/// Writes the answers of the chat endpoint.
struct ChatReply: Sendable {
    let id: String
    let created: Int
    let model: String
    let logprobs: LogprobsWriter?

    /// The writer of a stream.
    func encoder(samples: Int, includesUsage: Bool) -> ChatEncoder {
        let frame = ChunkFrame(
            id: id, object: "chat.completion.chunk", created: created, model: model, includesUsage: includesUsage)
        return ChatEncoder(frame: frame, logprobs: logprobs, samples: samples)
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
            json.string(sample.text)
            json.raw(",\"refusal\":null},\"logprobs\":")
            if let logprobs { logprobs.chat(sample.tokens, into: &json) } else { json.raw("null") }
            json.raw(",\"finish_reason\":")
            json.raw(sample.reason.wireName)
            json.raw("}")
        }
        json.raw("],\"usage\":")
        generation.usage.write(into: &json)
        json.raw("}")
        return json
    }
}
