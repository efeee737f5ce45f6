import ApusText

/// Conversations in JSON Lines files, plain or compressed.
enum ChatRows {
    /// Calls `body` with each conversation, its file and its line.
    ///
    /// A row is `{"messages": [...]}` in the OpenAI form, or has a `prompt` (text, or messages) and an answer under
    /// `response`, `completion` or `chosen`.
    static func forEach(
        in files: [String], _ body: (_ messages: [ChatMessage], _ file: String, _ line: Int) throws -> Void
    ) throws {
        for file in files {
            let reader = try TextReader(path: file, layout: TextLayout(form: .jsonLines))
            while let block = try reader.next() {
                for piece in block.pieces {
                    try body(try messages(block.bytes[piece.range], file, piece.line), file, piece.line)
                }
            }
        }
    }

    private static func messages(_ row: ArraySlice<UInt8>, _ file: String, _ line: Int) throws -> [ChatMessage] {
        do throws(JSONError) {
            let node = JSONNode(try JSONValue(parsing: Array(row)), name: "row")
            if let messages = try node.optional("messages") { return try conversation(messages) }
            let prompt = try node.child("prompt", expected: "messages, or a prompt with a response")
            var result =
                if case .string(let text) = prompt.value { [ChatMessage.user(text)] } else { try conversation(prompt) }
            for key in ["response", "completion", "chosen"] {
                if let answer = try node.optional(key) {
                    result.append(.assistant(try answer.string()))
                    return result
                }
            }
            throw node.error(expected: "an answer under response, completion or chosen")
        } catch {
            throw ChatDataError.row(file: file, line: line, problem: "\(error)")
        }
    }

    private static func conversation(_ node: JSONNode) throws(JSONError) -> [ChatMessage] {
        var result: [ChatMessage] = []
        for element in try node.elements() { result.append(try ChatMessage(element)) }
        return result
    }
}
