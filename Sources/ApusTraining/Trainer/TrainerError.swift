/// Why training stopped.
public enum TrainerError: Error, Equatable, CustomStringConvertible {
    /// A loss or gradient that is not a number.
    case notFinite(step: Int, tensor: String, lastCheckpoint: String?)
    /// A loss far above its recent mean.
    case lossSpike(step: Int, loss: Double, recentMean: Double, threshold: Double, lastCheckpoint: String?)
    /// A checkpoint that does not fit the run.
    case checkpoint(path: String, problem: String)
    /// A changed recipe that the checkpoint's run cannot go on with.
    case changedRecipe(path: String, changes: [String])

    /// One sentence for people.
    public var description: String {
        switch self {
        case .notFinite(let step, let tensor, let last):
            "step \(step): \(tensor) is not finite; \(Self.advice(last))"
        case .lossSpike(let step, let loss, let mean, let threshold, let last):
            "step \(step): the loss rose to \(loss), more than \(threshold) above its recent mean \(mean); "
                + Self.advice(last)
        case .checkpoint(let path, let problem): "\(path): \(problem)"
        case .changedRecipe(let path, let changes):
            "\(path): the run was started with another recipe, and cannot go on with these changes: "
                + changes.joined(separator: "; ")
        }
    }

    private static func advice(_ checkpoint: String?) -> String {
        checkpoint.map { "the last good checkpoint is \($0)" } ?? "there is no checkpoint yet"
    }
}
