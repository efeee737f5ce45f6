#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// How much better an output was than what was to be expected, from the rewards of its group (the outputs of one prompt).
public enum Advantages {
    /// RLOO: the reward less the mean of the others' (Kool et al. 2019; Ahmadian et al. 2024, arXiv 2402.14740).
    ///
    /// An output alone in its group has nothing to be compared with: 0.
    public static func leaveOneOut(_ rewards: [Double]) -> [Double] {
        guard rewards.count > 1 else { return rewards.map { _ in 0 } }
        let sum = rewards.reduce(0, +)
        let others = Double(rewards.count - 1)
        return rewards.map { $0 - (sum - $0) / others }
    }

    /// GRPO: the reward less the group's mean, over the group's standard deviation plus 1e-4 (Shao et al. 2024,
    /// arXiv 2402.03300); without the division Dr. GRPO (Liu et al. 2025, arXiv 2503.20783).
    public static func groupRelative(_ rewards: [Double], dividesByDeviation: Bool) -> [Double] {
        guard rewards.count > 1 else { return rewards.map { _ in 0 } }
        let mean = rewards.reduce(0, +) / Double(rewards.count)
        let scale = dividesByDeviation ? 1 / (GroupSpread.variance(rewards).squareRoot() + 1e-4) : 1
        return rewards.map { ($0 - mean) * scale }
    }

    /// Generalised advantage estimation over one output's tokens (Schulman et al. 2016, arXiv 1506.02438); the value after the
    /// last token is 0.
    /// - Parameters:
    ///   - rewards: of each token.
    ///   - values: expected return before each token.
    /// - Returns: advantages, and what the values should have been (advantage plus value).
    public static func generalized(
        rewards: [Double], values: [Double], discount: Double, lambda: Double
    ) -> (advantages: [Double], returns: [Double]) {
        precondition(rewards.count == values.count, "\(rewards.count) rewards, \(values.count) values")
        var advantages = [Double](repeating: 0, count: rewards.count)
        var (next, running) = (0.0, 0.0)
        for index in rewards.indices.reversed() {
            let delta = rewards[index] + discount * next - values[index]
            running = delta + discount * lambda * running
            advantages[index] = running
            next = values[index]
        }
        return (advantages, zip(advantages, values).map { $0 + $1 })
    }

    /// Shifted to mean 0 and scaled to variance 1 over all numbers, 1e-8 added to the variance.
    public static func whitened(_ values: [Double]) -> [Double] {
        guard values.count > 1 else { return values }
        let mean = values.reduce(0, +) / Double(values.count)
        let scale = 1 / (GroupSpread.variance(values) + 1e-8).squareRoot()
        return values.map { ($0 - mean) * scale }
    }
}

/// What is meant by the variance of rewards in training: always within a prompt.
public enum GroupSpread {
    /// The unbiased variance of a group's rewards; 0 for a single one.
    public static func variance(_ rewards: [Double]) -> Double {
        guard rewards.count > 1 else { return 0 }
        let mean = rewards.reduce(0, +) / Double(rewards.count)
        return rewards.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(rewards.count - 1)
    }

    /// Whether a group's rewards are all equal, so that nothing is learned from it.
    public static func isZero(_ rewards: [Double]) -> Bool { rewards.allSatisfy { $0 == rewards.first } }

    /// Shares out further outputs among groups in proportion to the standard deviation found in each so far (Neyman's
    /// allocation), by largest remainders; evenly where all are 0.
    /// - Returns: how many each gets; their sum is `budget`.
    public static func allocation(of budget: Int, deviations: [Double]) -> [Int] {
        guard !deviations.isEmpty, budget > 0 else { return deviations.map { _ in 0 } }
        var weights = deviations
        if weights.allSatisfy({ $0 == 0 }) { weights = weights.map { _ in 1 } }
        let total = weights.reduce(0, +)
        let exact = weights.map { $0 / total * Double(budget) }
        var shares = exact.map { Int($0) }
        let left = budget - shares.reduce(0, +)
        let order = exact.indices.sorted {
            let (a, b) = (exact[$0] - Double(shares[$0]), exact[$1] - Double(shares[$1]))
            return a == b ? $0 < $1 : a > b
        }
        for place in 0..<left { shares[order[place % order.count]] += 1 }
        return shares
    }
}
