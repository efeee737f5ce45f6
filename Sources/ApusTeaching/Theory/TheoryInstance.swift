import ApusTensor

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// What the experiments draw: rewards and policies over a few outputs.
struct TheorySource {
    private var random: SplitMix64

    init(seed: UInt64) { random = SplitMix64(state: seed) }

    mutating func uniform(_ range: ClosedRange<Double>) -> Double { Double.random(in: range, using: &random) }
    mutating func integer(_ range: ClosedRange<Int>) -> Int { Int.random(in: range, using: &random) }

    /// Distinct rewards in [-1, 1].
    mutating func rewards(_ count: Int) -> [Double] { (0..<count).map { _ in uniform(-1...1) } }

    /// A policy whose logits are normal with a deviation of their own, so that some are nearly uniform and some peaked.
    mutating func policy(_ count: Int) -> TabularPolicy {
        let spread = uniform(0.2...2.5)
        return TabularPolicy(logits: (0..<count).map { _ in spread * normal() })
    }

    private mutating func normal() -> Double {
        let radius = (-2 * log(1 - uniform(0...(1 - 0x1p-53)))).squareRoot()
        return radius * cos(2 * Double.pi * uniform(0...1))
    }
}

/// A ground truth, a first policy, and an output good enough that reaching it raises the expected ground truth by `gain`.
struct TeachingInstance {
    let groundTruth: [Double]
    let policy: TabularPolicy
    let prompts: Int
    /// The wanted rise of the expected ground truth, gamma.
    let gain: Double
    /// y_gamma: its ground truth exceeds the first expectation by more than the gain.
    let goal: Int

    /// Draws until there is such an output.
    init(_ source: inout TheorySource) {
        while true {
            let count = source.integer(3...12)
            let groundTruth = source.rewards(count)
            let policy = source.policy(count)
            let gain = source.uniform(0.05...0.6)
            let needed = policy.value(groundTruth) + gain
            let good = groundTruth.indices.filter { groundTruth[$0] > needed + 0.02 }
            guard !good.isEmpty else { continue }
            self.groundTruth = groundTruth
            self.policy = policy
            prompts = source.integer(1...3)
            self.gain = gain
            goal = good[source.integer(0...(good.count - 1))]
            return
        }
    }

    /// rho = (V_G + gamma + 1) / (r_G(y_gamma) + 1).
    var rho: Double { (policy.value(groundTruth) + gain + 1) / (groundTruth[goal] + 1) }

    /// Whether a policy's expected ground truth has risen by the gain.
    func isReached(_ later: TabularPolicy) -> Bool {
        later.value(groundTruth) - policy.value(groundTruth) >= gain
    }

    /// The time to reach the gain under a reward, searched up to `limit`.
    func time(_ reward: [Double], klWeight: Double = 0, limit: Double) -> (time: Double, isCensored: Bool) {
        let flow = GradientFlow(reward: reward, initial: policy, klWeight: klWeight, prompts: prompts)
        let outcome = flow.run(until: limit, condition: isReached)
        return (outcome.time ?? limit, outcome.time == nil)
    }

    /// The values 1/T (1 to n)/(n + 1) in the order of the ground truth: perfectly accurate, and all within (0, 1/T).
    func orderedReward(scale: Double) -> [Double] {
        var reward = groundTruth
        let order = groundTruth.indices.sorted { groundTruth[$0] < groundTruth[$1] }
        for (rank, index) in order.enumerated() {
            reward[index] = Double(rank + 1) / Double(order.count + 1) / scale
        }
        return reward
    }

    /// 1 at the goal and values below pi_0(goal) elsewhere, in the order opposite to the ground truth: accuracy <= 2 / n.
    func misorderedReward() -> [Double] {
        var reward = groundTruth
        let ceiling = policy.probabilities[goal]
        let order = groundTruth.indices.filter { $0 != goal }.sorted { groundTruth[$0] > groundTruth[$1] }
        for (rank, index) in order.enumerated() {
            reward[index] = ceiling * Double(rank + 1) / Double(order.count + 1)
        }
        reward[goal] = 1
        return reward
    }
}

/// Theorem 3's setting: two good outputs, and two policies of equal expected ground truth, each of which nearly never gives
/// one of them.
struct TwoPolicyInstance {
    let groundTruth: [Double]
    let goals: (Int, Int)
    /// First: at least `likely` on the first goal and at most T^-2 on the second; second: the other way round.
    let policies: (TabularPolicy, TabularPolicy)
    let prompts: Int
    let gain: Double
    /// c: the least probability of the goal that a policy gives often.
    let likely: Double
    /// T.
    let scale: Double

    init(_ source: inout TheorySource) {
        while true {
            let others = source.integer(2...8)
            let good = [source.uniform(0.4...1), source.uniform(0.4...1)]
            let rest = (0..<others).map { _ in source.uniform(-1...0.3) }
            let groundTruth = good + rest
            let likely = source.uniform(0.02...0.3)
            let scale = source.uniform(5...100)
            let gain = source.uniform(0.05...0.5)
            let value = source.uniform(-0.8...0.2)
            let low = rest.indices.min { rest[$0] < rest[$1] }!
            let high = rest.indices.max { rest[$0] < rest[$1] }!
            guard value + gain + 0.02 < min(good[0], good[1]), rest[high] - rest[low] > 0.1 else { continue }
            let rare = source.uniform(0.2...1) / (scale * scale)
            let base = (0..<others).map { _ in source.uniform(0.01...1) }
            func policy(_ first: Double, _ second: Double) -> TabularPolicy? {
                Self.policy(
                    first, second, rest: rest, weights: base, low: low, high: high,
                    value: value - first * good[0] - second * good[1])
            }
            guard let one = policy(likely, rare), let two = policy(rare, likely) else { continue }
            self.groundTruth = groundTruth
            goals = (0, 1)
            policies = (one, two)
            prompts = source.integer(1...3)
            self.gain = gain
            self.likely = likely
            self.scale = scale
            return
        }
    }

    /// Spreads what the goals leave over the other outputs so that their share of the expectation is `value`: the weights
    /// first, then as much from all of them to the worst or the best as it takes.
    private static func policy(
        _ first: Double, _ second: Double, rest: [Double], weights: [Double], low: Int, high: Int, value: Double
    ) -> TabularPolicy? {
        let mass = 1 - first - second
        let sum = weights.reduce(0, +)
        let spread = weights.map { mass * $0 / sum }
        let now = zip(spread, rest).reduce(0) { $0 + $1.0 * $1.1 }
        let target = value > now ? high : low
        let all = mass * rest[target]
        guard abs(all - now) > 1e-9 else { return nil }
        let share = (value - now) / (all - now)
        guard share >= 0, share <= 0.95 else { return nil }
        var probabilities = spread.map { $0 * (1 - share) }
        probabilities[target] += share * mass
        return TabularPolicy(probabilities: [first, second] + probabilities)
    }

    /// 1 at one output and -1 elsewhere.
    func indicator(_ goal: Int) -> [Double] { groundTruth.indices.map { $0 == goal ? 1 : -1 } }

    func rho(_ policy: TabularPolicy, _ goal: Int) -> Double {
        (policy.value(groundTruth) + gain + 1) / (groundTruth[goal] + 1)
    }
}
