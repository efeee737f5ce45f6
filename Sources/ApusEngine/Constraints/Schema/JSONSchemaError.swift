/// Why a JSON schema cannot be made into a constraint. Paths are JSON pointers into the schema: `#/properties/age/not`.
public enum JSONSchemaError: Error, Equatable, CustomStringConvertible {
    /// A keyword, or a use of it, that constrained decoding cannot follow. None is ever passed over.
    case unsupported(String, path: String)
    /// A keyword's value is not of the kind that JSON Schema asks for.
    case invalid(path: String, expected: String, found: String)
    /// A `$ref` that leads nowhere in the schema.
    case unresolvedReference(String, path: String)
    /// A schema that refers to itself without anything in between.
    case endlessReference(path: String)
    /// A pattern that is no pattern, or not a regular one.
    case pattern(String, reason: String, path: String)
    /// A part of the schema needs more than the limit allows.
    case tooLarge(String, limit: Int, path: String)
    /// No finite value fits.
    case unsatisfiable

    /// One sentence for people.
    public var description: String {
        switch self {
        case .unsupported(let what, let path): "\(path): \(what) is not supported in constrained decoding"
        case .invalid(let path, let expected, let found): "\(path): expected \(expected), found \(found)"
        case .unresolvedReference(let reference, let path):
            "\(path): expected a reference to a place in the schema (#/...), found '\(reference)'"
        case .endlessReference(let path): "\(path): the schema refers to itself without a value in between"
        case .pattern(let pattern, let reason, let path): "\(path): the pattern '\(pattern)' has \(reason)"
        case .tooLarge(let what, let limit, let path): "\(path): \(what) exceeds the limit of \(limit)"
        case .unsatisfiable: "no finite JSON value fits the schema"
        }
    }
}

/// The white space that a constraint allows between the parts of JSON.
public enum JSONWhitespace: Sendable, Hashable {
    /// None: `{"a":[1,2]}`.
    case none
    /// At each place at most one space, or a line break with at most 32 blanks: what models write, but never endless.
    case flexible
}
