/// One reward model's rewards of a policy's outputs: some outputs for each of some prompts, at least two a prompt.
public struct RewardSamples: Sendable {
    /// By prompt, by output. Finite.
    public let rewards: [[Double]]
    private let summaries: [Summary]

    /// What a prompt adds to pooled figures.
    private struct Summary {
        var count: Double
        var sum: Double
        var squares: Double
        /// Unbiased; of the prompt's own outputs.
        var variance: Double
    }

    /// Rewards by prompt and output.
    /// - Throws: ``RewardDataError`` for a reward that is not finite, a prompt with fewer than two outputs, no prompt.
    public init(_ rewards: [[Double]]) throws {
        guard !rewards.isEmpty else { throw RewardDataError.noPrompts }
        self.rewards = rewards
        summaries = try rewards.enumerated().map { prompt, values in
            guard values.count >= 2 else { throw RewardDataError.tooFewOutputs(prompt: prompt, found: values.count) }
            if let output = values.firstIndex(where: { !$0.isFinite }) {
                throw RewardDataError.notFinite(prompt: prompt, output: output, found: values[output])
            }
            let count = Double(values.count)
            let mean = values.reduce(0, +) / count
            let around = values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) }
            return Summary(
                count: count, sum: mean * count, squares: around + count * mean * mean, variance: around / (count - 1))
        }
    }

    /// The pooled mean and standard deviation over all outputs of some prompts: what rewards are normalised with.
    func pooled(_ prompts: [Int]) -> (mean: Double, variance: Double) {
        var (count, sum) = (0.0, 0.0)
        for prompt in prompts {
            count += summaries[prompt].count
            sum += summaries[prompt].sum
        }
        let mean = sum / count
        // About the mean, prompt by prompt: no difference of large squares.
        let around = prompts.reduce(0.0) { total, prompt in
            let part = summaries[prompt]
            let offset = part.sum / part.count - mean
            return total + part.variance * (part.count - 1) + part.count * offset * offset
        }
        return (mean, around / count)
    }

    /// Pooled mean and standard deviation over all prompts.
    public var normalisation: (mean: Double, deviation: Double) {
        let all = pooled(Array(rewards.indices))
        return (all.mean, all.variance.squareRoot())
    }

    /// The mean over prompts of the variance within a prompt, to a power, after pooled normalisation.
    ///
    /// Power 1 is the paper's reward variance, 1/2 and 1/3 are the exponents of its bounds (tabular and general), which a
    /// few prompts of large variance dominate less. Rewards that are all equal have variance 0.
    public func variance(of prompts: [Int], power: Double = 1) -> Double {
        let total = pooled(prompts).variance
        guard total > 0 else { return 0 }
        return prompts.reduce(0) { $0 + Self.power(summaries[$1].variance / total, power) } / Double(prompts.count)
    }

    /// The variance within a prompt as a share of the whole, both unbiased: within / (within + between prompts).
    public func withinShare(of prompts: [Int]) -> Double {
        let count = Double(prompts.count)
        let within = prompts.reduce(0) { $0 + summaries[$1].variance } / count
        guard prompts.count > 1 else { return within > 0 ? 1 : 0 }
        let means = prompts.map { summaries[$0].sum / summaries[$0].count }
        let mean = means.reduce(0, +) / count
        let spread = means.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / (count - 1)
        let noise = prompts.reduce(0) { $0 + summaries[$1].variance / summaries[$1].count } / count
        let between = max(0, spread - noise)
        return within + between > 0 ? within / (within + between) : 0
    }

    /// The share of prompts whose normalised variance is below `threshold`: the prompts from which nothing is learned.
    public func nearZeroShare(of prompts: [Int], threshold: Double = 1e-3) -> Double {
        let total = pooled(prompts).variance
        guard total > 0 else { return 1 }
        return Double(prompts.count { summaries[$0].variance / total < threshold }) / Double(prompts.count)
    }

    /// Normalised variances of all prompts.
    public var normalisedVariances: [Double] {
        let total = pooled(Array(rewards.indices)).variance
        return summaries.map { total > 0 ? $0.variance / total : 0 }
    }

    private static func power(_ value: Double, _ exponent: Double) -> Double {
        exponent == 1 ? value : RealPower.power(value, exponent)
    }
}

/// What can be wrong with rewards.
public enum RewardDataError: Error, Equatable, CustomStringConvertible {
    /// No prompt at all.
    case noPrompts
    /// A prompt with fewer than two outputs has no variance.
    case tooFewOutputs(prompt: Int, found: Int)
    /// A reward that is NaN or infinite.
    case notFinite(prompt: Int, output: Int, found: Double)
    /// Two reward models with different numbers of outputs.
    case differentOutputs(prompt: Int, expected: Int, found: Int)

    /// One sentence for people.
    public var description: String {
        switch self {
        case .noPrompts: "expected at least one prompt, found none"
        case .tooFewOutputs(let prompt, let found):
            "prompt \(prompt): expected at least 2 outputs to measure a variance, found \(found)"
        case .notFinite(let prompt, let output, let found):
            "prompt \(prompt), output \(output): expected a finite reward, found \(found)"
        case .differentOutputs(let prompt, let expected, let found):
            "prompt \(prompt): expected rewards of \(expected) outputs, found \(found)"
        }
    }
}
