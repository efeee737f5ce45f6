import ApusTensor

/// Rewards by the texts that commands and recipes name them with.
public enum RewardSpecification {
    /// A reward: `exact`, `number`, `distinct`, `length:WORDS`, `pattern:EXPRESSION`, `process:COMMAND`, an `http://` address, or the folder
    /// of a reward model.
    /// - Parameter operations: a GPU's, which reward models score on; nil for the backend.
    /// - Throws: ``RewardError``; what loading a reward model throws.
    public static func reward(
        _ text: String, backend: any Backend = CPUBackend.shared, operations: DifferentiableOperations? = nil
    ) throws -> any RewardFunction {
        if text == "exact" { return ExactAnswer() }
        if text == "number" { return NumericAnswer() }
        if text == "distinct" { return DistinctWords() }
        if let expression = text.after("pattern:") { return try PatternReward(expression) }
        if let command = text.after("process:") { return try ProcessReward(command: command) }
        if text.hasPrefix("http://") { return try HTTPReward(address: text) }
        if let words = text.after("length:") {
            guard let words = Int(words), words >= 1 else {
                throw RewardError.specification(text, expected: "length:WORDS with at least one word")
            }
            return LengthReward(words: words)
        }
        return try RewardModel(path: text, backend: backend, operations: operations)
    }

    /// The sum of several rewards, each with a weight in front where it has one: `0.5*length:20`.
    /// - Throws: as ``reward(_:backend:operations:)``. Precondition: at least one.
    public static func sum(
        _ texts: [String], backend: any Backend = CPUBackend.shared, operations: DifferentiableOperations? = nil
    ) throws -> any RewardFunction {
        let parts = try texts.map { text -> (weight: Double, reward: any RewardFunction) in
            guard let sign = text.firstIndex(of: "*"), let weight = Double(text[..<sign]) else {
                return (1, try reward(text, backend: backend, operations: operations))
            }
            guard weight.isFinite else { throw RewardError.specification(text, expected: "a finite weight") }
            return (
                weight, try reward(String(text[text.index(after: sign)...]), backend: backend, operations: operations)
            )
        }
        if parts.count == 1, parts[0].weight == 1 { return parts[0].reward }
        return WeightedReward(parts)
    }
}

extension String {
    /// What follows a prefix; nil without it.
    fileprivate func after(_ prefix: String) -> String? { hasPrefix(prefix) ? String(dropFirst(prefix.count)) : nil }
}
