import ApusEngine
import Hummingbird
import NIOCore

extension RunningGeneration {
    /// Answers with server-sent events.
    ///
    /// All events of one step are written at once, and the next step's are taken when the client's socket has room for them. A
    /// failure becomes an event with OpenAI's error object; the stream ends with `[DONE]` in any case.
    /// - Parameter usage: what is known already of the tokens used; nil where no chunk tells them.
    func streamed(
        by encoder: some StreamEncoder, usage start: Usage, tellsUsage: Bool, context: APIContext
    ) -> Response {
        context.record.update { $0.isStream = true }
        let body = ResponseBody { writer in
            var encoder = encoder
            var usage = start
            await context.onClientLeaving { cancel() }
            do {
                try await forEachStep { prompt, events in
                    var json = JSONBytes()
                    for event in events { try encode(event, prompt, &encoder, &usage, into: &json) }
                    if json.buffer.readableBytes > 0 { try await writer.write(json.buffer) }
                }
                let final = usage
                context.record.update { $0.usage = final }
                var json = JSONBytes()
                if tellsUsage { encoder.usage(usage, into: &json) }
                json.raw("data: [DONE]\n\n")
                try await writer.write(json.buffer)
            } catch let error as APIError {
                cancel()
                context.record.update { $0.failure = error }
                var json = JSONBytes()
                json.raw("data: ")
                json.value(error.json)
                json.raw("\n\ndata: [DONE]\n\n")
                try await writer.write(json.buffer)
            } catch {
                cancel()
                context.record.update { $0.failure = .clientLeft }
                await context.onClientLeaving(nil)
                throw error
            }
            await context.onClientLeaving(nil)
            try await writer.finish(nil)
        }
        return Response(
            status: .ok,
            headers: [.contentType: "text/event-stream; charset=utf-8", .cacheControl: "no-cache"], body: body)
    }

    private func encode(
        _ event: GenerationEvent, _ prompt: Int, _ encoder: inout some StreamEncoder, _ usage: inout Usage,
        into json: inout JSONBytes
    ) throws(APIError) {
        switch event {
        case .started(let cached):
            usage.cachedTokens += cached
            encoder.started(prompt, into: &json)
        case .promptLogprobs(let tokens): encoder.prompt(prompt, logprobs: tokens, into: &json)
        case .piece(let sample, let piece):
            encoder.piece(
                prompt, sample, GenerationPiece(text: piece.text, tokens: visibleTokens(piece)), into: &json)
        case .finished(let sample, let reason, let statistics):
            if reason == .cancelled { throw .clientLeft }
            usage.completionTokens += statistics.generatedTokens
            encoder.finished(prompt, sample, reason, into: &json)
        case .failed(let error): throw APIError(error)
        }
    }
}
