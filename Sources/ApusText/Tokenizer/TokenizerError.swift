/// What can be wrong with a tokenizer's files or with the bytes given to it.
public enum TokenizerError: Error, Equatable, CustomStringConvertible {
    /// The file cannot be read.
    case unreadable(file: String, reason: String)
    /// The file is not JSON, or a value in it is missing or of the wrong kind.
    case json(file: String, JSONError)
    /// A component that this tokenizer cannot do, such as a `Unigram` model.
    case unsupported(component: String, at: String)
    /// A setting has a value that makes no sense.
    case invalid(String, at: String)
    /// Two tokens share an id, or one token has two.
    case duplicate(token: String, id: Int, at: String)
    /// An id that is negative or beyond `limit`.
    case idOutOfRange(id: Int, limit: Int, at: String)
    /// A merge, a special token or a setting names a token that the vocabulary lacks.
    case unknownToken(String, at: String)
    /// A regular expression that cannot be compiled.
    case pattern(String, reason: String, at: String)
    /// The text is not UTF-8; `offset` counts the bytes before the first wrong one.
    case invalidUTF8(offset: Int)

    /// One sentence for people.
    public var description: String {
        switch self {
        case .unreadable(let file, let reason): "\(file): cannot be read: \(reason)"
        case .json(let file, let error): "\(file): \(error)"
        case .unsupported(let component, let place): "\(place): expected a supported component, found \(component)"
        case .invalid(let message, let place): "\(place): \(message)"
        case .duplicate(let token, let id, let place):
            "\(place): expected each token and each id once, found \(token) with id \(id) again"
        case .idOutOfRange(let id, let limit, let place):
            "\(place): expected a token id from 0 to \(limit - 1), found \(id)"
        case .unknownToken(let token, let place): "\(place): expected a token of the vocabulary, found \(token)"
        case .pattern(let pattern, let reason, let place):
            "\(place): expected a supported regular expression, found \(pattern): \(reason)"
        case .invalidUTF8(let offset): "expected UTF-8, found an invalid byte at offset \(offset)"
        }
    }
}
