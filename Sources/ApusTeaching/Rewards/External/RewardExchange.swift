import ApusText

/// What is said to a reward outside of this process, and what it answers: one JSON object each.
///
/// Asked: `{"prompt": "...", "messages": [...], "answer": "...", "outputs": ["...", ...]}`, `answer` only where the prompt has
/// one. Answered: `{"rewards": [0.5, ...]}`, a number for each output, or `{"error": "..."}`.
enum RewardExchange {
    static func question(_ outputs: [String], _ prompt: RewardPrompt) -> String {
        let messages: [JSONValue] = prompt.messages.map {
            .object(["role": .string($0.role), "content": .string($0.content?.text ?? "")])
        }
        var object: JSONObject = ["prompt": .string(prompt.title), "messages": .array(messages)]
        if let answer = prompt.answer { object["answer"] = .string(answer) }
        object["outputs"] = .array(outputs.map { .string($0) })
        return JSONValue.object(object).serialized()
    }

    static func rewards(_ answer: [UInt8], outputs: Int) throws -> [Double] {
        do throws(JSONError) {
            let node = JSONNode(try JSONValue(parsing: answer), name: "answer")
            if let problem = try node.optional("error") { throw problem.error(expected: "rewards") }
            let elements = try node.child("rewards", expected: "rewards").elements()
            guard elements.count == outputs else {
                throw node.error(expected: "\(outputs) rewards, found \(elements.count)")
            }
            var rewards: [Double] = []
            for element in elements {
                // Python writes NaN, which is no JSON; a number in words is none either.
                rewards.append(try element.double())
            }
            return rewards
        } catch {
            let text = String(decoding: answer.prefix(200), as: UTF8.self)
            throw RewardError.external("expected {\"rewards\": [...]} of \(outputs) numbers, found \(text) (\(error))")
        }
    }
}
