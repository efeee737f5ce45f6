/// What can be wrong with a question to the planner.
public enum PlanningError: Error, Equatable, CustomStringConvertible {
    /// A name that is in no table.
    case unknownName(kind: String, expected: [String], found: String)
    /// A size that a layout cannot cut evenly.
    case notDivisible(what: String, size: Int, ranks: Int)
    /// The weights leave no room.
    case weightsDoNotFit(bytes: Double, available: Double)
    /// A request that is longer than what the cache holds.
    case requestDoesNotFit(tokens: Int, capacity: Int)
    /// A number outside its range.
    case outOfRange(name: String, expected: String, found: String)
    /// A calibration that is not for what is planned.
    case calibration(expected: String, found: String)

    /// One sentence for people.
    public var description: String {
        switch self {
        case .unknownName(let kind, let expected, let found):
            "\(kind): expected one of \(expected.joined(separator: ", ")), found \(found)"
        case .notDivisible(let what, let size, let ranks):
            "tensor parallelism: expected ranks that divide the \(what) of \(size), found \(ranks)"
        case .weightsDoNotFit(let bytes, let available):
            "device memory: expected at least \(gigabytes(bytes)) GB for the weights and a page of cache, found "
                + "\(gigabytes(available)) GB"
        case .requestDoesNotFit(let tokens, let capacity):
            "cache: expected room for a request of \(tokens) tokens, found \(capacity)"
        case .outOfRange(let name, let expected, let found): "\(name): expected \(expected), found \(found)"
        case .calibration(let expected, let found): "calibration: expected \(expected), found \(found)"
        }
    }

    private func gigabytes(_ bytes: Double) -> String { "\((bytes / 1e8).rounded() / 10)" }
}
