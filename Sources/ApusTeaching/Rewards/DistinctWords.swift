/// The share of an output's words that are distinct, whatever their case: 1 without repetition, 0 for no words.
public struct DistinctWords: RewardFunction {
    /// See ``RewardFunction/name``.
    public let name = "distinct"

    /// A verifier.
    public init() {}

    /// See ``RewardFunction/rewards(of:prompt:)``.
    public func rewards(of outputs: [String], prompt: RewardPrompt) -> [Double] {
        outputs.map { output in
            let words = output.lowercased().split { !$0.isLetter && !$0.isNumber }
            return words.isEmpty ? 0 : Double(Set(words).count) / Double(words.count)
        }
    }
}
