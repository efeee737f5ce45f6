#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// The theorems of Razin et al. 2025 (arXiv 2503.15477) in numbers: a tabular policy, exact gradient flow, random
/// instances, and for each inequality how many keep to it.
public struct TheoryExperiments: Sendable {
    /// Random instances of each inequality.
    public let instances: Int
    /// Of the random draws.
    public let seed: UInt64

    /// Experiments over `instances` random instances each.
    public init(instances: Int = 200, seed: UInt64 = 0) {
        self.instances = instances
        self.seed = seed
    }

    /// The weight that theorem 2 allows at most, and a third one, of the divergence.
    private static func klLimit(_ policy: TabularPolicy, _ factor: Double, _ divisor: Double) -> Double {
        let least = policy.logProbabilities.min() ?? 0
        return factor / (divisor * (1 / (2 * M_E) - 2 * least))
    }

    /// Runs all of them.
    /// - Parameter progress: called with the share of the work done.
    public func run(progress: (Double) -> Void = { _ in }) -> TheoryResult {
        let parts: [(inout TheoryResult) -> Void] = [
            gradientNorm, timeFromVariance, perfectButSlow, twoPolicies, bestOfN, equalAccuracy,
        ]
        var result = TheoryResult(instances: instances, seed: seed)
        for (index, part) in parts.enumerated() {
            progress(Double(index) / Double(parts.count))
            part(&result)
        }
        progress(1)
        return result
    }

    private func source(_ part: UInt64) -> TheorySource { TheorySource(seed: seed &* 1_000_003 &+ part) }

    /// ||grad||_1 <= sqrt(Var[r_KL]) anywhere along a flow.
    private func gradientNorm(_ result: inout TheoryResult) {
        var source = source(1)
        var check = Inequality("gradient: L1 norm <= sqrt(Var[r_KL])", .atMost)
        for _ in 0..<instances {
            let count = source.integer(2...12)
            let initial = source.policy(count)
            let flow = GradientFlow(
                reward: source.rewards(count), initial: initial, klWeight: source.uniform(0...0.5))
            let end = flow.run(until: source.uniform(0.1...20), tolerance: 1e-7, condition: { _ in false }).path.last!
            let norm = flow.gradient(end.policy).reduce(0) { $0 + abs($1) }
            let variance = end.policy.variance(flow.regularisedReward(end.policy))
            check.add(bound: variance.squareRoot(), measured: norm)
        }
        result.inequalities.append(check)
    }

    /// Theorem 1 (tabular): the time for any expected reward to rise by gamma, the trained one and the ground truth among
    /// them, is at least 2 |S| (1 - exp(-gamma / 2)) Var^(-1/2).
    private func timeFromVariance(_ result: inout TheoryResult) {
        var source = source(2)
        var check = Inequality("theorem 1: t >= 2 S (1 - exp(-gamma/2)) / sqrt(Var)", .atLeast)
        for _ in 0..<instances {
            let instance = TeachingInstance(&source)
            let reward = source.rewards(instance.groundTruth.count)
            let start = instance.policy.value(reward)
            let deviation = instance.policy.variance(reward).squareRoot()
            let bound = 2 * Double(instance.prompts) * (1 - exp(-instance.gain / 2)) / deviation
            let flow = GradientFlow(
                reward: reward, initial: instance.policy, klWeight: source.uniform(0...0.2), prompts: instance.prompts)
            // Whichever rises first: the bound holds for both.
            let outcome = flow.run(until: 200 * bound) {
                instance.isReached($0) || $0.value(reward) - start >= instance.gain
            }
            check.add(bound: bound, measured: outcome.time ?? 200 * bound, isCensored: outcome.time == nil)
        }
        result.inequalities.append(check)
    }

    /// Theorem 2: a perfectly accurate reward model can be slower than any time asked for, and one that orders nearly
    /// every pair wrongly fast.
    private func perfectButSlow(_ result: inout TheoryResult) {
        var source = source(3)
        var slow = Inequality("theorem 2: perfect accuracy, t >= 2 S (1 - exp(-gamma/2)) T", .atLeast)
        var fast = Inequality(
            "theorem 2: accuracy <= 2/n, t <= 4 S (1/pi_0(y) - 1/rho) / (1 - rho)^4", .atMost)
        var accuracy = Inequality("theorem 2: accuracy of the fast model <= 2/n", .atMost)
        for _ in 0..<instances {
            let instance = TeachingInstance(&source)
            let scale = source.uniform(2...100)
            let perfect = instance.orderedReward(scale: scale)
            precondition(pairAccuracy(perfect, groundTruth: instance.groundTruth) == 1)
            let least = 2 * Double(instance.prompts) * (1 - exp(-instance.gain / 2)) * scale
            let slowTime = instance.time(perfect, limit: 20 * least)
            slow.add(bound: least, measured: slowTime.time, isCensored: slowTime.isCensored)

            let wrong = instance.misorderedReward()
            let rho = instance.rho
            let first = instance.policy.probabilities[instance.goal]
            let klWeight = Self.klLimit(instance.policy, first * pow(1 - rho, 4), 8)
            let most = 4 * Double(instance.prompts) / pow(1 - rho, 4) * (1 / first - 1 / rho)
            let fastTime = instance.time(wrong, klWeight: klWeight, limit: most)
            fast.add(bound: most, measured: fastTime.time, isCensored: fastTime.isCensored)
            accuracy.add(
                bound: 2 / Double(wrong.count),
                measured: pairAccuracy(wrong, groundTruth: instance.groundTruth))
            if !fastTime.isCensored {
                result.slowAndFast.append(.init(perfect: slowTime.time, misordered: fastTime.time))
            }
        }
        result.inequalities += [slow, fast, accuracy]
    }

    /// Theorem 3: which of two reward models teaches better depends on the policy, and mirrored.
    private func twoPolicies(_ result: inout TheoryResult) {
        var source = source(4)
        var fast = Inequality("theorem 3: the fitting reward, t <= 2 S (1/c - 1/rho) / (1 - rho)^3", .atMost)
        var slow = Inequality("theorem 3: the other reward, t >= S (1 - exp(-gamma/2)) T / sqrt 2", .atLeast)
        for _ in 0..<instances {
            let instance = TwoPolicyInstance(&source)
            let pairs = [
                (instance.policies.0, instance.goals.0, instance.goals.1),
                (instance.policies.1, instance.goals.1, instance.goals.0),
            ]
            for (policy, fitting, other) in pairs {
                let start = policy.value(instance.groundTruth)
                func time(_ goal: Int, _ klWeight: Double, _ limit: Double) -> (Double, Bool) {
                    let flow = GradientFlow(
                        reward: instance.indicator(goal), initial: policy, klWeight: klWeight,
                        prompts: instance.prompts)
                    let outcome = flow.run(until: limit) { $0.value(instance.groundTruth) - start >= instance.gain }
                    return (outcome.time ?? limit, outcome.time == nil)
                }
                let rho = instance.rho(policy, fitting)
                let c = instance.likely
                let klWeight = Self.klLimit(policy, c * pow(1 - rho, 3), 16)
                let most = 2 * Double(instance.prompts) / pow(1 - rho, 3) * (1 / c - 1 / rho)
                let quick = time(fitting, klWeight, most)
                fast.add(bound: most, measured: quick.0, isCensored: quick.1)
                let least =
                    Double(instance.prompts) / 2.0.squareRoot() * (1 - exp(-instance.gain / 2)) * instance.scale
                let late = time(other, klWeight, 20 * least)
                slow.add(bound: least, measured: late.0, isCensored: late.1)
            }
        }
        result.inequalities += [fast, slow]
    }

    /// For the best of N a perfectly accurate reward is never worse than another: the effect is one of optimisation.
    private func bestOfN(_ result: inout TheoryResult) {
        var source = source(5)
        var check = Inequality("best of N: any reward <= a perfectly accurate one", .atMost)
        for _ in 0..<instances {
            let instance = TeachingInstance(&source)
            let n = source.integer(1...64)
            let other = source.rewards(instance.groundTruth.count)
            let truth = instance.groundTruth
            // Shifted by one, so that ratios mean something: expectations lie in [-1, 1].
            let perfect = 1 + instance.policy.bestOf(n, by: instance.orderedReward(scale: 100), groundTruth: truth)
            check.add(bound: perfect, measured: 1 + instance.policy.bestOf(n, by: other, groundTruth: truth))
        }
        result.inequalities.append(check)
    }

    /// Reward models of one accuracy on one policy and ground truth: how the time depends on their variance alone.
    private func equalAccuracy(_ result: inout TheoryResult) {
        var source = source(6)
        let instance = TeachingInstance(&source)
        let count = instance.groundTruth.count
        let order = instance.groundTruth.indices.sorted { instance.groundTruth[$0] < instance.groundTruth[$1] }
        for _ in 0..<instances {
            // All order the outputs as the ground truth does; they differ in how they space them, and where they lie.
            let exponent = source.uniform(0.2...5)
            let scale = pow(10, source.uniform(-2...0))
            let steps = (0..<count).map { _ in pow(source.uniform(0.02...1), exponent) }
            let total = steps.reduce(0, +)
            var reward = [Double](repeating: 0, count: count)
            var level = -scale
            for (step, index) in zip(steps, order) {
                level += 2 * scale * step / total
                reward[index] = level
            }
            let variance = instance.policy.variance(reward)
            let bound = 2 * Double(instance.prompts) * (1 - exp(-instance.gain / 2)) / variance.squareRoot()
            let found = instance.time(reward, limit: 1000 * bound)
            guard !found.isCensored else { continue }
            result.perfectModels.append(.init(variance: variance, time: found.time, bound: bound))
        }
    }
}

/// What the experiments gave.
public struct TheoryResult: Sendable {
    /// Random instances of each inequality.
    public let instances: Int
    /// Of the random draws.
    public let seed: UInt64
    /// The inequalities.
    public internal(set) var inequalities: [Inequality] = []

    /// Theorem 2 on one instance: two times to the same gain.
    public struct Pair: Sendable {
        /// Of the perfectly accurate model of low variance.
        public let perfect: Double
        /// Of the model that orders nearly every pair wrongly.
        public let misordered: Double
    }

    /// Instances of theorem 2 in which both times are known, or the first is a lower limit.
    public internal(set) var slowAndFast: [Pair] = []

    /// One perfectly accurate model.
    public struct Model: Sendable {
        /// Its reward variance under the first policy.
        public let variance: Double
        /// The time to the gain.
        public let time: Double
        /// Theorem 1's lower bound of it.
        public let bound: Double
    }

    /// Models of equal, perfect accuracy on one instance.
    public internal(set) var perfectModels: [Model] = []

    init(instances: Int, seed: UInt64) {
        self.instances = instances
        self.seed = seed
    }

    /// Whether every instance keeps to its bound.
    public var holds: Bool { inequalities.allSatisfy { $0.violations == 0 } }
}
