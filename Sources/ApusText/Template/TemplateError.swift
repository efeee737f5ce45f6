/// A place in a template's source.
public struct TemplatePlace: Sendable, Hashable, CustomStringConvertible {
    /// The line, from 1.
    public let line: Int32
    /// The column in Unicode scalars, from 1.
    public let column: Int32

    /// "line 3, column 14".
    public var description: String { "line \(line), column \(column)" }
}

/// What can go wrong with a chat template.
public enum TemplateError: Error, Equatable, CustomStringConvertible {
    /// The source breaks Jinja's grammar.
    case syntax(expected: String, found: String, at: TemplatePlace)
    /// The source uses something of Jinja or Python that this interpreter lacks.
    case unsupported(construct: String, at: TemplatePlace)
    /// An operation on values it does not take: an attribute of an undefined value, a string plus a number.
    case evaluation(String, at: TemplatePlace)
    /// The template itself refused the conversation with `raise_exception`.
    case raised(String, at: TemplatePlace)
    /// The template asked for more than its limits allow.
    case limit(what: String, limit: Int, at: TemplatePlace)
    /// There is no template of that name, or none at all.
    case noTemplate(name: String, available: [String])
    /// A model's file stores templates or messages in a form that cannot be read.
    case form(JSONError)

    /// One sentence for people.
    public var description: String {
        switch self {
        case .syntax(let expected, let found, let place):
            "chat template: expected \(expected), found \(found) at \(place)"
        case .unsupported(let construct, let place): "chat template: \(construct) is not supported, at \(place)"
        case .evaluation(let message, let place): "chat template: \(message) at \(place)"
        case .raised(let message, let place): "chat template: \(message) (raised at \(place))"
        case .limit(let what, let limit, let place):
            "chat template: expected at most \(limit) \(what), found more at \(place)"
        case .noTemplate(let name, let available):
            "chat template: expected a template named \"\(name)\", found "
                + (available.isEmpty ? "no template" : available.map { "\"\($0)\"" }.joined(separator: ", "))
        case .form(let error): error.description
        }
    }
}

/// How much a template may use up. The defaults are far above what conversations need and below what harms a server.
public struct TemplateLimits: Sendable, Hashable {
    /// Expressions and statements evaluated.
    public var steps: Int
    /// Bytes of text and of lists produced on the way, summed over the run.
    public var workBytes: Int
    /// Bytes of the rendered text.
    public var outputBytes: Int
    /// Nested statements, expressions and macro calls.
    public var depth: Int

    /// Limits with the given values.
    public init(
        steps: Int = 10_000_000, workBytes: Int = 1 << 30, outputBytes: Int = 64 << 20, depth: Int = 256
    ) {
        self.steps = steps
        self.workBytes = workBytes
        self.outputBytes = outputBytes
        self.depth = depth
    }
}
