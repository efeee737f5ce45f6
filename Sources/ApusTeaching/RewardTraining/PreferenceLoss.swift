#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Bradley-Terry's loss of preference pairs with a penalty on rewards far from 0:
/// `-log sigmoid(chosen - rejected - margin) + centering (chosen + rejected)^2`, mean over the pairs.
///
/// Source: Bradley and Terry 1952; margins as in Llama 2 (arXiv 2307.09288); the penalty as in Eisenstein et al. 2023
/// (arXiv 2312.09244).
struct PreferenceLoss {
    /// The mean over pairs.
    let value: Double
    /// Derivatives with respect to the rewards, chosen and rejected in turns.
    let gradient: [Float]

    /// The loss of rewards, chosen and rejected in turns.
    init(_ rewards: [Double], margins: [Double], centering: Double) {
        precondition(rewards.count == 2 * margins.count, "\(rewards.count) rewards for \(margins.count) pairs")
        let scale = 1 / Double(max(margins.count, 1))
        var sum = 0.0
        var gradient: [Float] = []
        gradient.reserveCapacity(rewards.count)
        for (pair, margin) in margins.enumerated() {
            let (chosen, rejected) = (rewards[2 * pair], rewards[2 * pair + 1])
            let difference = chosen - rejected - margin
            let both = chosen + rejected
            sum += Self.softplus(-difference) + centering * both * both
            // The logistic function of -difference, without overflow.
            let slope = difference >= 0 ? exp(-difference) / (1 + exp(-difference)) : 1 / (1 + exp(difference))
            gradient.append(Float(scale * (-slope + 2 * centering * both)))
            gradient.append(Float(scale * (slope + 2 * centering * both)))
        }
        value = sum * scale
        self.gradient = gradient
    }

    /// ln(1 + e^x).
    private static func softplus(_ x: Double) -> Double { max(x, 0) + log1p(exp(-abs(x))) }
}
