import ApusEngine

/// Writes the answers of the completions endpoint.
struct CompletionReply: Sendable {
    let id: String
    let created: Int
    let model: String
    let logprobs: LogprobsWriter?
    /// What is echoed before each prompt's output; nil where nothing is.
    let echoed: [String]?

    /// The writer of a stream.
    func encoder(prompts: Int, samples: Int, includesUsage: Bool) -> CompletionEncoder {
        let frame = ChunkFrame(
            id: id, object: "text_completion", created: created, model: model, includesUsage: includesUsage)
        return CompletionEncoder(
            frame: frame, logprobs: logprobs, prompts: prompts, samples: samples, echoed: echoed)
    }

    /// The answer in one piece.
    func whole(_ generation: CollectedGeneration) -> JSONBytes {
        var json = JSONBytes(capacity: 512)
        json.raw("{\"id\":")
        json.string(id)
        json.raw(",\"object\":\"text_completion\",\"created\":")
        json.integer(created)
        json.raw(",\"model\":")
        json.string(model)
        json.raw(",\"choices\":[")
        var index = 0
        for (prompt, samples) in generation.samples.enumerated() {
            for sample in samples {
                if index > 0 { json.raw(",") }
                choice(index, sample, prompt, generation.promptLogprobs[prompt], into: &json)
                index += 1
            }
        }
        json.raw("],\"usage\":")
        generation.usage.write(into: &json)
        json.raw("}")
        return json
    }

    private func choice(
        _ index: Int, _ sample: CollectedSample, _ prompt: Int, _ promptTokens: [SampledToken],
        into json: inout JSONBytes
    ) {
        json.raw("{\"index\":")
        json.integer(index)
        json.raw(",\"text\":")
        json.string((echoed?[prompt] ?? "") + sample.text)
        json.raw(",\"logprobs\":")
        if let logprobs {
            var offset = 0
            logprobs.completion((echoed == nil ? [] : promptTokens) + sample.tokens, offset: &offset, into: &json)
        } else {
            json.raw("null")
        }
        json.raw(",\"finish_reason\":")
        json.raw(sample.reason.wireName)
        json.raw("}")
    }
}
