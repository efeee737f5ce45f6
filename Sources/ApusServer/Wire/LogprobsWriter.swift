import ApusEngine

/// Writes log-probabilities in the forms of the two endpoints.
struct LogprobsWriter: Sendable {
    let names: TokenNames

    /// The form of chat completions: an object with `content`, an entry a token.
    func chat(_ tokens: some Sequence<SampledToken>, into json: inout JSONBytes) {
        json.raw("{\"content\":[")
        var isFirst = true
        for token in tokens {
            if !isFirst { json.raw(",") }
            isFirst = false
            json.raw("{")
            entry(TokenLogprob(token: token.token, logprob: token.logprob ?? 0), into: &json)
            json.raw(",\"top_logprobs\":[")
            for (place, alternative) in token.alternatives.enumerated() {
                json.raw(place == 0 ? "{" : ",{")
                entry(alternative, into: &json)
                json.raw("}")
            }
            json.raw("]}")
        }
        json.raw("],\"refusal\":null}")
    }

    private func entry(_ token: TokenLogprob, into json: inout JSONBytes) {
        json.raw("\"token\":")
        json.string(names.name(token.token))
        json.raw(",\"logprob\":")
        json.number(token.logprob)
        json.raw(",\"bytes\":[")
        for (place, byte) in names.bytes(token.token).enumerated() {
            if place > 0 { json.raw(",") }
            json.integer(Int(byte))
        }
        json.raw("]")
    }

    /// The form of completions: four arrays side by side.
    /// - Parameter offset: characters of output before these tokens; moved behind them.
    func completion(_ tokens: some Collection<SampledToken>, offset: inout Int, into json: inout JSONBytes) {
        let spellings = tokens.map { names.name($0.token) }
        json.raw("{\"tokens\":[")
        list(spellings, into: &json) { $1.string($0) }
        json.raw("],\"token_logprobs\":[")
        list(tokens, into: &json) { token, json in
            if let logprob = token.logprob { json.number(logprob) } else { json.raw("null") }
        }
        json.raw("],\"top_logprobs\":[")
        list(zip(tokens, spellings), into: &json) { alternatives($0.0, $0.1, into: &$1) }
        json.raw("],\"text_offset\":[")
        list(spellings, into: &json) { spelling, json in
            json.integer(offset)
            offset += spelling.unicodeScalars.count
        }
        json.raw("]}")
    }

    /// The most likely tokens, and the one drawn where it is none of them; null before the first token.
    private func alternatives(_ token: SampledToken, _ spelling: String, into json: inout JSONBytes) {
        guard let logprob = token.logprob else { return json.raw("null") }
        json.raw("{")
        var isFirst = true
        for alternative in token.alternatives {
            if !isFirst { json.raw(",") }
            isFirst = false
            json.string(names.name(alternative.token))
            json.raw(":")
            json.number(alternative.logprob)
        }
        if !token.alternatives.contains(where: { $0.token == token.token }) {
            if !isFirst { json.raw(",") }
            json.string(spelling)
            json.raw(":")
            json.number(logprob)
        }
        json.raw("}")
    }

    private func list<Items: Sequence>(
        _ items: Items, into json: inout JSONBytes, _ write: (Items.Element, inout JSONBytes) -> Void
    ) {
        var isFirst = true
        for item in items {
            if !isFirst { json.raw(",") }
            isFirst = false
            write(item, &json)
        }
    }
}
