import ApusText
import Yams

/// A value of a recipe before it has a type.
enum RecipeValue: Equatable {
    case null
    /// As written; `isQuoted` makes it text whatever it looks like.
    case scalar(String, isQuoted: Bool)
    case list([RecipeValue])
    case mapping

    init(_ node: Node) {
        switch node {
        case .scalar(let scalar):
            let isQuoted = scalar.style != .plain && scalar.style != .any
            let isNull = !isQuoted && ["", "~", "null", "Null", "NULL"].contains(scalar.string)
            self = isNull ? .null : .scalar(scalar.string, isQuoted: isQuoted)
        case .sequence(let nodes): self = .list(nodes.map { RecipeValue($0) })
        // Aliases of scalars are resolved while parsing; what is left cannot be a value.
        case .mapping, .alias: self = .mapping
        }
    }

    /// The value in words, for messages.
    var found: String {
        switch self {
        case .null: "null"
        case .scalar(let text, let isQuoted): isQuoted ? "the text \"\(text)\"" : text
        case .list(let values): "a list of \(values.count)"
        case .mapping: "a mapping"
        }
    }
}

/// A type that a recipe's values can have.
protocol RecipeConvertible: Sendable, Equatable {
    /// What the file must hold, in words.
    static var expected: String { get }
    /// Nil where the value is not of this type.
    init?(_ value: RecipeValue)
    /// The value as YAML.
    var yaml: String { get }
}

extension Int: RecipeConvertible {
    static var expected: String { "an integer" }

    init?(_ value: RecipeValue) {
        guard case .scalar(let text, isQuoted: false) = value else { return nil }
        let digits = text.filter { $0 != "_" }
        // Researchers write 2e9 tokens.
        guard let number = Int(digits) ?? Double(digits).flatMap({ Int(exactly: $0) }) else { return nil }
        self = number
    }

    var yaml: String { String(self) }
}

extension Double: RecipeConvertible {
    static var expected: String { "a number" }

    init?(_ value: RecipeValue) {
        guard case .scalar(let text, isQuoted: false) = value, let first = text.first,
            first.isNumber || "+-.".contains(first), let number = Double(text.filter { $0 != "_" }), number.isFinite
        else { return nil }
        self = number
    }

    var yaml: String { "\(self)" }
}

extension Bool: RecipeConvertible {
    static var expected: String { "true or false" }

    init?(_ value: RecipeValue) {
        switch value {
        case .scalar("true", isQuoted: false): self = true
        case .scalar("false", isQuoted: false): self = false
        default: return nil
        }
    }

    var yaml: String { self ? "true" : "false" }
}

extension String: RecipeConvertible {
    static var expected: String { "text" }

    init?(_ value: RecipeValue) {
        guard case .scalar(let text, _) = value else { return nil }
        self = text
    }

    /// Always quoted: JSON's strings are YAML's.
    var yaml: String { JSONValue.string(self).serialized() }
}

extension RecipeConvertible where Self: RawRepresentable & CaseIterable, RawValue == String {
    static var expected: String { "one of " + allCases.map(\.rawValue).joined(separator: ", ") }

    init?(_ value: RecipeValue) {
        guard case .scalar(let text, _) = value else { return nil }
        self.init(rawValue: text)
    }

    var yaml: String { rawValue }
}

extension RecipeTask: RecipeConvertible {}
extension RecipeAttention: RecipeConvertible {}
extension PolicyAverage: RecipeConvertible {}
extension PolicyLogProbabilities: RecipeConvertible {}
extension RewardScaleCentre: RecipeConvertible {}
extension ZeroVarianceGroups: RecipeConvertible {}
extension RolloutAllocation: RecipeConvertible {}
extension ScheduleKind: RecipeConvertible {}
extension ComputePrecision: RecipeConvertible {}

extension Optional: RecipeConvertible where Wrapped: RecipeConvertible {
    static var expected: String { Wrapped.expected + ", or null" }

    init?(_ value: RecipeValue) {
        if value == .null {
            self = .none
        } else {
            guard let wrapped = Wrapped(value) else { return nil }
            self = .some(wrapped)
        }
    }

    var yaml: String { self?.yaml ?? "null" }
}

extension Array: RecipeConvertible where Element: RecipeConvertible {
    static var expected: String { "a list, each " + Element.expected }

    /// One value stands for a list of it.
    init?(_ value: RecipeValue) {
        let values: [RecipeValue]
        switch value {
        case .list(let list): values = list
        case .null: values = []
        default: values = [value]
        }
        let elements = values.compactMap { Element($0) }
        guard elements.count == values.count else { return nil }
        self = elements
    }

    var yaml: String { "[" + map(\.yaml).joined(separator: ", ") + "]" }
}
