import ApusEngine
import ApusText
import FoundationEssentials
import Hummingbird

/// `POST /v1/embeddings` and `POST /v1/score`.
struct VectorRoutes: Sendable {
    let service: APIService

    func embeddings(_ request: Request, _ context: APIContext) async throws -> Response {
        let (body, inputs) = try await service.read(request) {
            (fields) throws(APIError) -> (EmbeddingRequest, [[Int32]]) in
            let body = try EmbeddingRequest(fields)
            try service.checkModel(body.model)
            return (body, try body.inputs.map { (input) throws(APIError) -> [Int32] in try tokens(input) })
        }
        let vectors = try await run(context, inputs) { inputs, deadline in
            try await service.engine.embeddings(of: inputs, deadline: deadline)
        }
        if let dimensions = body.dimensions, dimensions != vectors[0].count {
            throw APIError.invalid(
                "dimensions: expected \(vectors[0].count), the model's width, found \(dimensions)",
                parameter: "dimensions")
        }
        return .json(
            list(inputs) { index, json in
                json.raw("{\"object\":\"embedding\",\"index\":")
                json.integer(index)
                json.raw(",\"embedding\":")
                if body.base64 {
                    json.string(base64(vectors[index]))
                } else {
                    json.raw("[")
                    for (place, value) in vectors[index].enumerated() {
                        if place > 0 { json.raw(",") }
                        json.number(Double(value))
                    }
                    json.raw("]")
                }
                json.raw("}")
            })
    }

    func scores(_ request: Request, _ context: APIContext) async throws -> Response {
        let inputs = try await service.read(request) { (fields) throws(APIError) -> [[Int32]] in
            let body = try ScoreRequest(fields)
            try service.checkModel(body.model)
            switch body.subject {
            case .inputs(let inputs): return try inputs.map { (input) throws(APIError) -> [Int32] in try tokens(input) }
            case .conversations(let conversations):
                return try conversations.map { (messages) throws(APIError) -> [Int32] in
                    try service.chatTokens(messages, tools: [], addGenerationPrompt: false)
                }
            }
        }
        let scores = try await run(context, inputs) { inputs, deadline in
            try await service.engine.scores(of: inputs, deadline: deadline)
        }
        return .json(
            list(inputs) { index, json in
                json.raw("{\"object\":\"score\",\"index\":")
                json.integer(index)
                json.raw(",\"score\":")
                json.number(Double(scores[index][0]))
                if scores[index].count > 1 {
                    json.raw(",\"scores\":[")
                    for (place, score) in scores[index].enumerated() {
                        if place > 0 { json.raw(",") }
                        json.number(Double(score))
                    }
                    json.raw("]")
                }
                json.raw("}")
            })
    }

    private func tokens(_ input: TextInput) throws(APIError) -> [Int32] {
        switch input {
        case .text(let text):
            return service.model.tokenizer.encode(text, addSpecialTokens: true, parseSpecialTokens: true)
        case .tokens(let tokens):
            try service.checkTokens(tokens, "input")
            return tokens
        }
    }

    private func run<T: Sendable>(
        _ context: APIContext, _ inputs: [[Int32]],
        _ work: @escaping @Sendable ([[Int32]], ContinuousClock.Instant) async throws -> T
    ) async throws -> T {
        guard !service.isDraining else {
            throw APIError.unavailable("the server is about to stop", code: "shutting_down", retryAfter: 5)
        }
        let deadline = service.deadline(context)
        let task = Task { try await work(inputs, deadline) }
        await context.onClientLeaving { task.cancel() }
        let outcome = await withTaskCancellationHandler {
            await task.result
        } onCancel: {
            task.cancel()
        }
        await context.onClientLeaving(nil)
        do {
            let result = try outcome.get()
            context.record.update { $0.usage = Usage(promptTokens: inputs.reduce(0) { $0 + $1.count }) }
            return result
        } catch let error as EngineError {
            throw APIError(error).naming(prompt: "input")
        }
    }

    private func list(_ inputs: [[Int32]], _ entry: (Int, inout JSONBytes) -> Void) -> JSONBytes {
        var json = JSONBytes(capacity: 1024)
        json.raw("{\"object\":\"list\",\"model\":")
        json.string(service.configuration.modelNames[0])
        json.raw(",\"data\":[")
        for index in inputs.indices {
            if index > 0 { json.raw(",") }
            entry(index, &json)
        }
        json.raw("],\"usage\":{\"prompt_tokens\":")
        let tokens = inputs.reduce(0) { $0 + $1.count }
        json.integer(tokens)
        json.raw(",\"total_tokens\":")
        json.integer(tokens)
        json.raw("}}")
        return json
    }

    /// The values as little-endian float32 in base 64.
    private func base64(_ values: [Float]) -> String {
        var bytes = Data(capacity: values.count * 4)
        for value in values { withUnsafeBytes(of: value.bitPattern.littleEndian) { bytes.append(contentsOf: $0) } }
        return bytes.base64EncodedString()
    }
}
