import ApusText
import Hummingbird

/// `POST /tokenize` and `POST /detokenize`.
struct TokenRoutes: Sendable {
    let service: APIService

    func tokenize(_ request: Request, _ context: APIContext) async throws -> Response {
        let (body, tokens) = try await service.read(request) {
            (fields) throws(APIError) -> (TokenizeRequest, [Int32]) in
            let body = try TokenizeRequest(fields)
            try service.checkModel(body.model)
            return (body, try encode(body))
        }
        var result: JSONObject = [
            "count": .integer(Int64(tokens.count)), "max_model_len": .integer(Int64(service.context)),
            "tokens": .array(tokens.map { .integer(Int64($0)) }),
        ]
        if body.returnsSpellings {
            result["token_strs"] = .array(
                tokens.map { .string(String(decoding: service.model.tokenizer.spelling($0) ?? [], as: UTF8.self)) })
        }
        return .json(.object(result))
    }

    private func encode(_ body: TokenizeRequest) throws(APIError) -> [Int32] {
        switch body.subject {
        case .text(let text):
            return service.model.tokenizer.encode(
                text, addSpecialTokens: body.addSpecialTokens, parseSpecialTokens: true)
        case .conversation(let messages, let tools, let addGenerationPrompt):
            return try service.chatTokens(messages, tools: tools, addGenerationPrompt: addGenerationPrompt)
        }
    }

    func detokenize(_ request: Request, _ context: APIContext) async throws -> Response {
        let text = try await service.read(request) { (fields) throws(APIError) -> String in
            let body = try DetokenizeRequest(fields)
            try service.checkModel(body.model)
            try service.checkTokens(body.tokens, "tokens")
            return service.model.tokenizer.decode(body.tokens)
        }
        return .json(["prompt": .string(text)])
    }
}
