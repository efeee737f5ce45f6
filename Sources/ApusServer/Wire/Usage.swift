import ApusEngine

/// Tokens that a request used.
struct Usage: Sendable, Equatable {
    var promptTokens = 0
    var cachedTokens = 0
    var completionTokens = 0

    func write(into json: inout JSONBytes) {
        json.raw("{\"prompt_tokens\":")
        json.integer(promptTokens)
        json.raw(",\"total_tokens\":")
        json.integer(promptTokens + completionTokens)
        json.raw(",\"completion_tokens\":")
        json.integer(completionTokens)
        json.raw(",\"prompt_tokens_details\":{\"cached_tokens\":")
        json.integer(cachedTokens)
        json.raw("}}")
    }
}
