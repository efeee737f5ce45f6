import ApusText

/// Turns drawn tokens into the text to show: whole characters only, nothing of a stop string.
struct OutputText {
    private var detokenizer: StreamingDetokenizer
    private var matcher: StopMatcher
    private var stopped = false
    /// All text that may be shown so far.
    private(set) var text = ""

    init(model: LanguageModel, stop: [String], skipSpecialTokens: Bool = true) {
        detokenizer = model.tokenizer.streamingDetokenizer(skipSpecialTokens: skipSpecialTokens)
        matcher = StopMatcher(stop)
    }

    /// Takes the next token.
    mutating func push(_ token: Int32) -> (text: String, stopped: Bool) {
        let result = matcher.push(detokenizer.append(token))
        text += result.text
        stopped = result.stopped
        return (result.text, result.stopped)
    }

    /// What was held back at the end, or nil when that is nothing.
    mutating func finish() -> String? {
        guard !stopped else { return nil }
        let last = matcher.push(detokenizer.finish())
        let rest = last.stopped ? last.text : last.text + matcher.finish()
        text += rest
        return rest.isEmpty ? nil : rest
    }
}
