import ApusEngine
import ApusText
import Hummingbird

/// `POST /v1/completions`.
struct CompletionRoute: Sendable {
    let service: APIService

    func respond(_ request: Request, _ context: APIContext) async throws -> Response {
        let (body, prompts) = try await service.read(request) {
            (fields) throws(APIError) -> (CompletionRequest, [[Int32]]) in
            let body = try CompletionRequest(fields, defaults: service.model.samplingDefaults)
            try service.checkModel(body.common.model)
            return (body, try body.prompts.map { (prompt) throws(APIError) -> [Int32] in try tokens(prompt, body) })
        }
        let constraint = try await service.constraints.constraint(body.responseFormat)
        let id = "cmpl-" + context.record.snapshot.id
        let generation = RunningGeneration(
            streams: try service.submit(
                requests(body, prompts, constraint, id: id, context), promptField: "prompt"),
            samples: body.common.samples, keepsTokens: body.common.sampling.logprobs != nil,
            isEnd: service.endPredicate(body.common.sampling))
        let usage = Usage(promptTokens: prompts.reduce(0) { $0 + $1.count })
        let logprobs = body.common.sampling.logprobs == nil ? nil : LogprobsWriter(names: service.tokenNames)
        let echoed = body.echo ? zip(body.prompts, prompts).map { echo($0, $1) } : nil
        let reply = CompletionReply(
            id: id, created: service.now, model: service.configuration.modelNames[0], logprobs: logprobs, echoed: echoed
        )
        guard !body.common.stream else {
            return generation.streamed(
                by: reply.encoder(
                    prompts: prompts.count, samples: body.common.samples, includesUsage: body.common.includeUsage),
                usage: usage, tellsUsage: body.common.includeUsage, context: context)
        }
        let collected = try await service.collect(generation, usage: usage, context)
        return .json(reply.whole(collected))
    }

    private func tokens(_ prompt: TextInput, _ body: CompletionRequest) throws(APIError) -> [Int32] {
        switch prompt {
        case .text(let text):
            return service.model.tokenizer.encode(
                text, addSpecialTokens: body.addSpecialTokens, parseSpecialTokens: true)
        case .tokens(let tokens):
            try service.checkTokens(tokens, "prompt")
            return tokens
        }
    }

    private func echo(_ prompt: TextInput, _ tokens: [Int32]) -> String {
        if case .text(let text) = prompt { return text }
        return service.model.tokenizer.decode(tokens)
    }

    private func requests(
        _ body: CompletionRequest, _ prompts: [[Int32]], _ constraint: JSONConstraint?, id: String,
        _ context: APIContext
    ) -> [GenerationRequest] {
        var result: [GenerationRequest] = []
        for (place, prompt) in prompts.enumerated() {
            var sampling = body.common.sampling
            sampling.maxTokens = body.common.maxTokens ?? CompletionRequest.defaultMaxTokens
            // Two prompts of a request must not draw alike.
            sampling.seed &+= UInt64(place * body.common.samples)
            result.append(
                GenerationRequest(
                    id: id, prompt: prompt, sampling: sampling, samples: body.common.samples,
                    priority: body.common.priority, promptLogprobs: body.echo ? sampling.logprobs : nil,
                    constraint: constraint, skipSpecialTokens: body.common.skipSpecialTokens,
                    deadline: service.deadline(context)))
        }
        return result
    }
}
