import ApusText

/// Two answers to one prompt, of which people (or a stronger reward) prefer the first.
public struct PreferencePair: Sendable, Equatable {
    /// The question.
    public var prompt: RewardPrompt
    /// The better answer.
    public var chosen: String
    /// The worse answer.
    public var rejected: String
    /// By how much the better one is better, at least; 0 where the data do not say.
    public var margin: Double

    /// A pair from its parts.
    public init(prompt: RewardPrompt, chosen: String, rejected: String, margin: Double = 0) {
        self.prompt = prompt
        self.chosen = chosen
        self.rejected = rejected
        self.margin = margin
    }

    /// Reads pairs from JSON Lines in TRL's formats, plain or compressed: `prompt` with `chosen` and `rejected`, or the prompt
    /// as what both sides begin with; each of them text or messages. A number `margin` may stand beside them.
    /// - Throws: ``TeachingDataError`` with file and line: a member missing, equal sides, a conversation that does not end
    ///   with an answer; `TextDataError`.
    public static func read(_ file: String) throws -> [PreferencePair] {
        var pairs: [PreferencePair] = []
        try TeachingRows.forEach(in: file) { node throws(JSONError) in
            pairs.append(try PreferencePair(node))
        }
        guard !pairs.isEmpty else { throw TeachingDataError.empty(file: file, expected: "chosen and rejected") }
        return pairs
    }

    init(_ node: JSONNode) throws(JSONError) {
        let (chosen, rejected) = (try node.child("chosen"), try node.child("rejected"))
        margin = 0
        if let given = try node.optional("margin") {
            margin = try given.double()
            guard margin.isFinite else { throw given.error(expected: "a finite number") }
        }
        let prompt = try node.optional("prompt")
        switch (chosen.value.stringValue, rejected.value.stringValue) {
        case (let chosenText?, let rejectedText?):
            if let prompt {
                self.prompt = RewardPrompt(try RewardPrompt.content(prompt))
                (self.chosen, self.rejected) = (chosenText, rejectedText)
            } else {
                let common = Self.commonPrompt(chosenText, rejectedText)
                guard !common.isEmpty else {
                    throw node.error(expected: "a prompt, or sides that begin with one")
                }
                self.prompt = RewardPrompt(.text(common))
                self.chosen = String(chosenText.dropFirst(common.count))
                self.rejected = String(rejectedText.dropFirst(common.count))
            }
        case (nil, nil):
            let sides = (try Self.messages(chosen), try Self.messages(rejected))
            if let prompt {
                self.prompt = RewardPrompt(try RewardPrompt.content(prompt))
            } else {
                var common = 0
                while common < min(sides.0.count, sides.1.count) - 1, sides.0[common] == sides.1[common] { common += 1 }
                guard sides.0[..<common].contains(where: { $0.role == "user" }) else {
                    throw node.error(expected: "a prompt, or conversations that begin with the same user's message")
                }
                self.prompt = RewardPrompt(.messages(Array(sides.0[..<common])))
            }
            self.chosen = try Self.answer(sides.0, chosen, hasPrompt: prompt != nil, self.prompt)
            self.rejected = try Self.answer(sides.1, rejected, hasPrompt: prompt != nil, self.prompt)
        default: throw rejected.error(expected: "the same form as chosen: text, or messages")
        }
        guard self.chosen != self.rejected else { throw rejected.error(expected: "another answer than the chosen one") }
    }

    /// What both texts begin with, up to the last word's end before they part.
    private static func commonPrompt(_ one: String, _ two: String) -> String {
        let common = String(zip(one, two).prefix { $0 == $1 }.map(\.0))
        guard let space = common.lastIndex(of: " ") else { return "" }
        return String(common[..<space])
    }

    private static func messages(_ node: JSONNode) throws(JSONError) -> [ChatMessage] {
        var messages: [ChatMessage] = []
        for element in try node.elements() { messages.append(try RewardPrompt.message(element)) }
        guard messages.last?.role == "assistant" else {
            throw node.error(expected: "messages whose last one is the assistant's")
        }
        return messages
    }

    /// The answer of a side: one message of the assistant after the prompt.
    private static func answer(
        _ messages: [ChatMessage], _ node: JSONNode, hasPrompt: Bool, _ prompt: RewardPrompt
    ) throws(JSONError) -> String {
        let before = hasPrompt ? 0 : prompt.messages.count
        guard messages.count == before + 1, let text = messages.last?.content?.text else {
            throw node.error(expected: "one answer of the assistant after the prompt")
        }
        return text
    }
}
