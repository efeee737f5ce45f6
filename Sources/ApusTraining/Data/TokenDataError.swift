/// What can be wrong with prepared token data.
public enum TokenDataError: Error, Equatable, CustomStringConvertible {
    /// The bytes at `place` are not what the format asks for.
    case malformed(file: String, place: String, expected: String, found: String)
    /// A token that the vocabulary does not have; `index` counts tokens of the file.
    case tokenOutOfRange(file: String, index: Int, vocabulary: Int, found: Int)
    /// The data was made with another tokenizer, or the folder mixes data of two.
    case vocabulary(file: String, expected: String, found: String)
    /// The folder has no data of this split.
    case noSplit(folder: String, split: String)
    /// Fewer tokens than one sequence takes.
    case tooShort(folder: String, split: String, expected: Int, found: Int)
    /// A preparation under way in the folder was begun with other settings or sources.
    case changed(folder: String, what: [String])
    /// The folder already holds something else.
    case occupied(folder: String)
    /// Settings of a preparation that do not fit.
    case setting(String)
    /// A call to the operating system failed; `code` is errno.
    case system(file: String, operation: String, reason: String)

    /// One sentence for people.
    public var description: String {
        switch self {
        case .malformed(let file, let place, let expected, let found):
            "\(file): \(place): expected \(expected), found \(found)"
        case .tokenOutOfRange(let file, let index, let vocabulary, let found):
            "\(file): token \(index): expected an id below \(vocabulary), found \(found)"
        case .vocabulary(let file, let expected, let found):
            "\(file): expected tokens of the vocabulary \(expected), found \(found)"
        case .noSplit(let folder, let split):
            "\(folder): expected data for \(split), found none (a document is in one split as a whole: "
                + "give more documents, or validation text of its own)"
        case .tooShort(let folder, let split, let expected, let found):
            "\(folder): \(split): expected at least \(expected) tokens (a sequence and the token after it), found \(found)"
        case .changed(let folder, let what):
            "\(folder): expected what its preparation was begun with; changed: \(what.joined(separator: "; ")) "
                + "(start over in another folder, or remove this one)"
        case .occupied(let folder):
            "\(folder): expected a new folder, an empty one, or one with prepared data; found other files"
        case .setting(let text): text
        case .system(let file, let operation, let reason):
            "\(file): cannot \(operation): \(reason)"
        }
    }
}
