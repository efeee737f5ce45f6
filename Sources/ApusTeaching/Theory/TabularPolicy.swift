#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// A softmax policy over a finite set of outputs with one logit an output, for one prompt.
public struct TabularPolicy: Sendable, Equatable {
    /// One per output; only differences count.
    public var logits: [Double]

    /// A policy from its logits.
    public init(logits: [Double]) { self.logits = logits }

    /// A policy from positive probabilities.
    public init(probabilities: [Double]) { logits = probabilities.map { log($0) } }

    /// The logarithms of the outputs' probabilities.
    public var logProbabilities: [Double] {
        let largest = logits.max() ?? 0
        let normaliser = largest + log(logits.reduce(0) { $0 + exp($1 - largest) })
        return logits.map { $0 - normaliser }
    }

    /// The outputs' probabilities.
    public var probabilities: [Double] { logProbabilities.map { exp($0) } }

    /// The expected reward.
    public func value(_ reward: [Double]) -> Double {
        zip(probabilities, reward).reduce(0) { $0 + $1.0 * $1.1 }
    }

    /// The variance of a reward over the policy's own outputs.
    public func variance(_ reward: [Double]) -> Double {
        let probabilities = probabilities
        let mean = zip(probabilities, reward).reduce(0) { $0 + $1.0 * $1.1 }
        return zip(probabilities, reward).reduce(0) { $0 + $1.0 * ($1.1 - mean) * ($1.1 - mean) }
    }
}

/// Gradient flow on the expected reward less `klWeight` times the divergence from the first policy, for a tabular policy:
/// the objective of RLHF with an exact gradient, in continuous time.
public struct GradientFlow: Sendable {
    /// The reward of each output.
    public let reward: [Double]
    /// The policy that training starts from, and that the divergence is measured against.
    public let initial: TabularPolicy
    /// The weight of the divergence, lambda.
    public let klWeight: Double
    /// Prompts in the training set, |S|: each one's gradient counts for 1 / |S|.
    public let prompts: Int

    /// Flow from `initial` under `reward`.
    ///
    /// Precondition: as many rewards as outputs.
    public init(reward: [Double], initial: TabularPolicy, klWeight: Double = 0, prompts: Int = 1) {
        precondition(reward.count == initial.logits.count, "gradient flow: one reward an output")
        self.reward = reward
        self.initial = initial
        self.klWeight = klWeight
        self.prompts = prompts
    }

    /// The rewards with the divergence's share in them: r(y) - lambda ln(pi(y) / pi_0(y)).
    public func regularisedReward(_ policy: TabularPolicy) -> [Double] {
        guard klWeight != 0 else { return reward }
        let (now, first) = (policy.logProbabilities, initial.logProbabilities)
        return reward.indices.map { reward[$0] - klWeight * (now[$0] - first[$0]) }
    }

    /// The gradient with respect to the logits, and so their speed:
    /// pi(y) (r_KL(y) - E[r_KL]) / |S|.
    public func gradient(_ policy: TabularPolicy) -> [Double] {
        let rewards = regularisedReward(policy)
        let probabilities = policy.probabilities
        let mean = zip(probabilities, rewards).reduce(0) { $0 + $1.0 * $1.1 }
        return rewards.indices.map { probabilities[$0] * (rewards[$0] - mean) / Double(prompts) }
    }

    /// The policy along the flow.
    public struct Point: Sendable {
        /// Time since the start.
        public let time: Double
        /// The policy then.
        public let policy: TabularPolicy
    }

    /// What is relevant of an integration.
    public struct Outcome: Sendable {
        /// When the condition came true; nil when it did not before the time was over.
        public let time: Double?
        /// The policy at the accepted steps, the first and the last included.
        public let path: [Point]
    }

    /// Integrates until `condition` holds or `limit` is over.
    ///
    /// Dormand and Prince's pair of orders 5 and 4 with steps of its own choice. The time at which the condition comes true
    /// is found by halving the step in which it does.
    /// - Parameter tolerance: of a logit in one step.
    public func run(
        until limit: Double, tolerance: Double = 1e-9, condition: (TabularPolicy) -> Bool
    ) -> Outcome {
        var policy = initial
        var time = 0.0
        var step = min(limit, 1e-3)
        var path = [Point(time: 0, policy: policy)]
        guard !condition(policy) else { return Outcome(time: 0, path: path) }
        while time < limit {
            step = min(step, limit - time)
            let (next, error) = advanced(policy, by: step)
            guard error <= tolerance || step <= time * 1e-14 else {
                step *= max(0.2, 0.9 * pow(tolerance / error, 0.2))
                continue
            }
            if condition(next) {
                let (crossing, last) = firstTime(from: policy, within: step, next, condition)
                path.append(Point(time: time + crossing, policy: last))
                return Outcome(time: time + crossing, path: path)
            }
            time += step
            policy = next
            path.append(Point(time: time, policy: policy))
            step *= min(5, max(0.2, 0.9 * pow(tolerance / max(error, 1e-300), 0.2)))
        }
        return Outcome(time: nil, path: path)
    }

    /// Halves a step at whose end the condition holds and at whose beginning it does not.
    private func firstTime(
        from policy: TabularPolicy, within step: Double, _ end: TabularPolicy, _ condition: (TabularPolicy) -> Bool
    ) -> (Double, TabularPolicy) {
        var (low, high, last) = (0.0, step, end)
        for _ in 0..<48 {
            let middle = 0.5 * (low + high)
            let candidate = advanced(policy, by: middle).policy
            if condition(candidate) { (high, last) = (middle, candidate) } else { low = middle }
        }
        return (high, last)
    }

    /// One step of Dormand and Prince (1980), and the largest difference between its two orders.
    private func advanced(_ policy: TabularPolicy, by step: Double) -> (policy: TabularPolicy, error: Double) {
        var slopes: [[Double]] = []
        var stage = policy
        for row in Self.stages {
            stage = policy
            for (weight, slope) in zip(row, slopes) where weight != 0 {
                for index in stage.logits.indices { stage.logits[index] += step * weight * slope[index] }
            }
            slopes.append(gradient(stage))
        }
        // The last stage stands at the fifth-order result.
        var error = 0.0
        for index in stage.logits.indices {
            let difference = zip(Self.errors, slopes).reduce(0) { $0 + $1.0 * $1.1[index] }
            error = max(error, abs(step * difference))
        }
        return (stage, error)
    }

    private static let stages: [[Double]] = [
        [], [1.0 / 5], [3.0 / 40, 9.0 / 40], [44.0 / 45, -56.0 / 15, 32.0 / 9],
        [19372.0 / 6561, -25360.0 / 2187, 64448.0 / 6561, -212.0 / 729],
        [9017.0 / 3168, -355.0 / 33, 46732.0 / 5247, 49.0 / 176, -5103.0 / 18656],
        [35.0 / 384, 0, 500.0 / 1113, 125.0 / 192, -2187.0 / 6784, 11.0 / 84],
    ]
    private static let errors: [Double] = [
        71.0 / 57600, 0, -71.0 / 16695, 71.0 / 1920, -17253.0 / 339200, 22.0 / 525, -1.0 / 40,
    ]
}
