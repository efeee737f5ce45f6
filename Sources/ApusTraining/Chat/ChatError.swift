/// Conversations that cannot be trained on.
public enum ChatDataError: Error, Equatable, CustomStringConvertible {
    /// A row without a conversation.
    case row(file: String, line: Int, problem: String)
    /// The template writes an answer differently once another turn follows it, so that answers cannot be told apart.
    case template(file: String, line: Int, turn: Int)
    /// No conversation is left.
    case empty(files: [String], longest: Int)
    /// The model has no chat template, and the recipe names none.
    case noTemplate(model: String)

    /// One sentence for people.
    public var description: String {
        switch self {
        case .row(let file, let line, let problem): "\(file), line \(line): \(problem)"
        case .template(let file, let line, let turn):
            "\(file), line \(line): the chat template does not continue its own prompt at turn \(turn), so the tokens of "
                + "the answer cannot be told apart; give another one by data.chat_template"
        case .empty(let files, let longest):
            "\(files.joined(separator: ", ")): expected conversations of at most \(longest) tokens with an answer, found none"
        case .noTemplate(let model): "\(model): the model has no chat template; name one by data.chat_template"
        }
    }
}
