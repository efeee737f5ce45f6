import ApusEngine
import ApusText

/// The body of a request for completions.
struct CompletionRequest: Sendable {
    var common: GenerationFields
    var prompts: [TextInput]
    var echo = false
    var addSpecialTokens = true
    var responseFormat: ResponseFormat

    /// Most prompts of one request.
    static let promptLimit = 1024
    /// OpenAI's default of `max_tokens`.
    static let defaultMaxTokens = 16

    init(_ fields: RequestFields, defaults: SamplingParameters) throws(APIError) {
        common = try GenerationFields(fields, defaults: defaults)
        prompts = try fields.inputs("prompt", limit: Self.promptLimit)
        echo = try fields.bool("echo") ?? false
        addSpecialTokens = try fields.bool("add_special_tokens") ?? true
        common.sampling.logprobs = try fields.int("logprobs", 0...GenerationFields.alternativesLimit)
        common.maxTokens = try fields.int("max_tokens", 0...Int(Int32.max)) ?? Self.defaultMaxTokens
        if common.maxTokens == 0 && !echo {
            throw .invalid(
                "max_tokens: expected an integer >= 1 where echo is not set, found 0", parameter: "max_tokens")
        }
        try fields.refuse("suffix")
        responseFormat = try ResponseFormat(fields)
    }
}
