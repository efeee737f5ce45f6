/// Why the reproduction cannot be made.
public enum ReproductionError: Error, Equatable, CustomStringConvertible {
    /// Data with too few prompts that fit.
    case tooFewPrompts(found: Int, needed: Int)
    /// A folder with another reproduction.
    case otherPlan(folder: String, key: String, expected: String, found: String)
    /// A stage that left less than it should have.
    case stage(String, problem: String)

    /// One sentence for people.
    public var description: String {
        switch self {
        case .tooFewPrompts(let found, let needed):
            "the preference files: expected at least \(needed) held-out prompts that are short enough, found \(found)"
        case .otherPlan(let folder, let key, let expected, let found):
            "\(folder) holds another reproduction: expected \(key) \(expected), found \(found); choose another folder"
        case .stage(let stage, let problem): "\(stage): \(problem)"
        }
    }
}
