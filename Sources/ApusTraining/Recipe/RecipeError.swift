/// Where a value of a recipe comes from.
public enum RecipePlace: Sendable, Equatable, CustomStringConvertible {
    /// A line of the file, from 1.
    case file(String, line: Int)
    /// An argument `key=value`.
    case override(String)
    /// The file as a whole.
    case whole(String)
    /// Nobody gave it.
    case byDefault

    /// The place in words.
    public var description: String {
        switch self {
        case .file(let file, let line): "\(file), line \(line)"
        case .override(let text): "argument \(text)"
        case .whole(let file): file
        case .byDefault: "recipe"
        }
    }
}

/// One thing that is wrong with a recipe.
public enum RecipeProblem: Sendable, Equatable, CustomStringConvertible {
    /// The file cannot be read.
    case unreadable(file: String, reason: String)
    /// The file is not YAML.
    case syntax(place: RecipePlace, reason: String)
    /// An argument is not `key=value`.
    case noAssignment(argument: String)
    /// There is no such key; `nearest` is the most similar one.
    case unknownKey(place: RecipePlace, key: String, nearest: String)
    /// A value has another type.
    case type(place: RecipePlace, key: String, expected: String, found: String)
    /// A value that no run can have, by itself or beside the others.
    case impossible(place: RecipePlace, key: String, expected: String, found: String)

    /// One sentence for people.
    public var description: String {
        switch self {
        case .unreadable(let file, let reason): "\(file): cannot read the recipe: \(reason)"
        case .syntax(let place, let reason): "\(place): expected YAML, found \(reason)"
        case .noAssignment(let argument): "argument \(argument): expected key=value"
        case .unknownKey(let place, let key, let nearest): "\(place): there is no key \(key); did you mean \(nearest)?"
        case .type(let place, let key, let expected, let found),
            .impossible(let place, let key, let expected, let found):
            "\(place): \(key): expected \(expected), found \(found)"
        }
    }
}

/// Everything that is wrong with a recipe.
public struct RecipeError: Error, Equatable, CustomStringConvertible {
    /// The problems in the order of the file, then of the arguments.
    public let problems: [RecipeProblem]

    /// One line for each problem.
    public var description: String { problems.map(\.description).joined(separator: "\n") }
}
