#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

extension TabularPolicy {
    /// The expected ground truth of the best of `n` outputs by another reward, exactly; among equal rewards the choice is
    /// uniform over the outputs drawn.
    public func bestOf(_ n: Int, by reward: [Double], groundTruth: [Double]) -> Double {
        precondition(n >= 1 && reward.count == logits.count && groundTruth.count == logits.count)
        let probabilities = probabilities
        let order = reward.indices.sorted { reward[$0] < reward[$1] }
        var expected = 0.0
        var below = 0.0
        var start = 0
        while start < order.count {
            var end = start
            while end < order.count, reward[order[end]] == reward[order[start]] { end += 1 }
            let level = order[start..<end]
            let mass = level.reduce(0) { $0 + probabilities[$1] }
            let reached = below + mass
            let chosen = pow(reached, Double(n)) - pow(below, Double(n))
            if mass > 0 {
                expected += chosen * level.reduce(0) { $0 + probabilities[$1] * groundTruth[$1] } / mass
            }
            below = reached
            start = end
        }
        return expected
    }
}

/// The share of pairs of different outputs that two rewards order alike; a tie must match a tie.
public func pairAccuracy(_ reward: [Double], groundTruth: [Double]) -> Double {
    precondition(reward.count == groundTruth.count)
    var alike = 0
    var pairs = 0
    for first in reward.indices {
        for second in 0..<first {
            pairs += 1
            let one = sign(reward[first] - reward[second])
            if one == sign(groundTruth[first] - groundTruth[second]) { alike += 1 }
        }
    }
    return pairs == 0 ? 1 : Double(alike) / Double(pairs)
}

private func sign(_ value: Double) -> Int { value > 0 ? 1 : value < 0 ? -1 : 0 }
