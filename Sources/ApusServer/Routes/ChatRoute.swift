import ApusEngine
import ApusText
import Hummingbird

/// `POST /v1/chat/completions`.
struct ChatRoute: Sendable {
    let service: APIService

    func respond(_ request: Request, _ context: APIContext) async throws -> Response {
        let (body, prompt) = try await service.read(request) { (fields) throws(APIError) -> (ChatRequest, [Int32]) in
            let body = try ChatRequest(fields, defaults: service.model.samplingDefaults)
            try service.checkModel(body.common.model)
            return (body, try service.chatTokens(body))
        }
        let tools = ToolUse(body, template: service.model.chatTemplate)
        let format = tools?.schema.map { ResponseFormat.jsonSchema($0) } ?? body.responseFormat
        let constraint = try await service.constraints.constraint(format)
        let id = "chatcmpl-" + context.record.snapshot.id
        var sampling = body.common.sampling
        sampling.maxTokens = body.common.maxTokens ?? service.context
        let work = GenerationRequest(
            id: id, prompt: prompt, sampling: sampling, samples: body.common.samples, priority: body.common.priority,
            constraint: constraint, skipSpecialTokens: body.common.skipSpecialTokens,
            deadline: service.deadline(context))
        let generation = RunningGeneration(
            streams: try service.submit([work], promptField: "messages"), samples: body.common.samples,
            keepsTokens: sampling.logprobs != nil, isEnd: service.endPredicate(sampling))
        let usage = Usage(promptTokens: prompt.count)
        let reply = ChatReply(
            id: id, created: service.now, model: service.configuration.modelNames[0],
            logprobs: sampling.logprobs == nil ? nil : LogprobsWriter(names: service.tokenNames), tools: tools)
        guard !body.common.stream else {
            return generation.streamed(
                by: reply.encoder(samples: body.common.samples, includesUsage: body.common.includeUsage), usage: usage,
                tellsUsage: body.common.includeUsage, context: context)
        }
        return .json(reply.whole(try await service.collect(generation, usage: usage, context)))
    }
}
