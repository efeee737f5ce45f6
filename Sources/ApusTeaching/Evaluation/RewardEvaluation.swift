/// Reward models as teachers of one policy: what each gives the policy's own outputs, and how it agrees with a ground truth.
public struct RewardEvaluation: Sendable {
    /// One reward model's figures, each with its interval over prompts.
    public struct Quality: Sendable {
        /// The reward model.
        public let name: String
        /// The mean over prompts of the variance within a prompt, rewards normalised over all outputs: the paper's reward
        /// variance.
        public let variance: Estimate
        /// The variance within prompts as a share of all variance, both unbiased.
        public let withinShare: Estimate
        /// The mean of the variance's square root, the tabular bound's exponent.
        public let meanSquareRoot: Estimate
        /// The mean of the variance's cube root, the general bound's exponent.
        public let meanCubeRoot: Estimate
        /// The share of prompts whose normalised variance is below 1e-3.
        public let nearZeroShare: Estimate
        /// The share of pairs of a prompt's outputs in the ground truth's order.
        public let onPolicyAccuracy: Estimate?
        /// The share of preference pairs in which the chosen side has the higher reward.
        public let offPolicyAccuracy: Estimate?
        /// The paper's combined number: the mean of variance and accuracy.
        public let average: Estimate?
        /// The expected ground truth of the best of n outputs by this reward.
        public let bestOfN: [(n: Int, value: Estimate)]
        /// Bradley-Terry's probabilities against the ground truth.
        public let calibration: [RewardAgreement.CalibrationBin]
        /// Normalised variances of all prompts.
        public let variances: [Double]
        /// Pooled mean and standard deviation: what rewards are normalised with.
        public let normalisation: (mean: Double, deviation: Double)
    }

    /// The policy.
    public let policy: String
    /// The prompts.
    public let prompts: [RewardPrompt]
    /// The outputs' texts, by prompt.
    public let outputs: [[String]]
    /// The reward models' names, in the order given.
    public let names: [String]
    /// Rewards by model.
    public let samples: [RewardSamples]
    /// The ground truth's rewards, where there is one.
    public let groundTruth: RewardSamples?
    /// Figures by model.
    public let qualities: [Quality]
    /// In how many of the resamples model i has a higher ``score`` than model j.
    public let precedence: [[Double]]
    /// Spearman's correlation within prompts between models.
    public let correlations: [[Double?]]
    /// The number that ranks: the paper's average where there is an accuracy, else the variance.
    public let rankedBy: String

    /// Measures.
    /// - Parameters:
    ///   - rewards: by model, by prompt, by output.
    ///   - preferences: by model, for each preference pair the reward of the chosen side less that of the rejected.
    ///   - resamples: of prompts (and of pairs), for the intervals.
    /// - Throws: ``RewardDataError``.
    public init(
        policy: String, prompts: [RewardPrompt], outputs: [[String]], rewards: [(name: String, values: [[Double]])],
        groundTruth: [[Double]]? = nil, preferences: [[Double]]? = nil, resamples: Int = 1000, seed: UInt64 = 0
    ) throws {
        self.policy = policy
        self.prompts = prompts
        self.outputs = outputs
        names = rewards.map(\.name)
        let samples = try rewards.map { try RewardSamples($0.values) }
        let truth = try groundTruth.map { try RewardSamples($0) }
        let agreements = try samples.map { samples in try truth.map { try RewardAgreement(samples, groundTruth: $0) } }
        self.samples = samples
        self.groundTruth = truth
        let bootstrap = Bootstrap(prompts: prompts.count, resamples: resamples, seed: seed)
        let pairs = preferences?.first.map { Bootstrap(prompts: $0.count, resamples: resamples, seed: seed &+ 1) }
        qualities = rewards.indices.map { index in
            Self.quality(
                rewards[index].name, samples[index], agreements[index], bootstrap, preferences?[index], pairs)
        }
        func score(_ index: Int) -> ([Int]) -> Double {
            let (sample, agreement) = (samples[index], agreements[index])
            return { prompts in
                let variance = sample.variance(of: prompts)
                return agreement.map { 0.5 * (variance + $0.accuracy(of: prompts)) } ?? variance
            }
        }
        rankedBy = truth == nil ? "reward variance" : "average of reward variance and on-policy accuracy"
        precedence = rewards.indices.map { first in
            rewards.indices.map { second in
                first == second ? 0.5 : bootstrap.probability(score(first), above: score(second))
            }
        }
        correlations = samples.map { one in
            samples.map { Correlation.withinPrompts(one, $0, Correlation.spearman) }
        }
    }

    private static func quality(
        _ name: String, _ samples: RewardSamples, _ agreement: RewardAgreement?, _ bootstrap: Bootstrap,
        _ margins: [Double]?, _ pairs: Bootstrap?
    ) -> Quality {
        let offPolicy = margins.flatMap { margins in
            pairs?.estimate { chosen in
                chosen.reduce(0) { $0 + (margins[$1] > 0 ? 1 : 0) } / Double(chosen.count)
            }
        }
        // The paper's accuracy in the average is the mean of on- and off-policy; off-policy varies with other pairs, so it
        // enters as a constant.
        let average = agreement.map { agreement in
            bootstrap.estimate { prompts in
                let onPolicy = agreement.accuracy(of: prompts)
                let accuracy = offPolicy.map { 0.5 * (onPolicy + $0.value) } ?? onPolicy
                return 0.5 * (samples.variance(of: prompts) + accuracy)
            }
        }
        let fewest = samples.rewards.map(\.count).min() ?? 0
        let sizes = [1, 2, 4, 8, 16, 32, 64, 128].filter { $0 < fewest } + [fewest]
        return Quality(
            name: name, variance: bootstrap.estimate { samples.variance(of: $0) },
            withinShare: bootstrap.estimate { samples.withinShare(of: $0) },
            meanSquareRoot: bootstrap.estimate { samples.variance(of: $0, power: 0.5) },
            meanCubeRoot: bootstrap.estimate { samples.variance(of: $0, power: 1.0 / 3) },
            nearZeroShare: bootstrap.estimate { samples.nearZeroShare(of: $0) },
            onPolicyAccuracy: agreement.map { agreement in bootstrap.estimate { agreement.accuracy(of: $0) } },
            offPolicyAccuracy: offPolicy, average: average,
            bestOfN: agreement.map { agreement in
                sizes.map { size in (size, bootstrap.estimate { agreement.bestOf(size, of: $0) }) }
            } ?? [],
            calibration: agreement?.calibration() ?? [], variances: samples.normalisedVariances,
            normalisation: samples.normalisation)
    }

    /// The models from the best teacher to the worst, by ``rankedBy``, as indices.
    public var ranking: [Int] {
        func score(_ quality: Quality) -> Double {
            quality.onPolicyAccuracy.map { 0.5 * (quality.variance.value + $0.value) } ?? quality.variance.value
        }
        return qualities.indices.sorted { score(qualities[$0]) > score(qualities[$1]) }
    }

    /// The ranking in words, and which of its steps the prompts at hand leave open.
    public var reading: String {
        guard qualities.count > 1 else { return "One reward model, so there is nothing to rank." }
        let order = ranking
        var text =
            "As teachers of this policy, by \(rankedBy): " + order.map { names[$0] }.joined(separator: ", ") + ". "
        let open = zip(order, order.dropFirst()).filter { precedence[$0][$1] < 0.95 }
        if open.isEmpty {
            text += "Each stands above the next in at least 95 % of the resamples of prompts."
        } else {
            text +=
                "Not settled by these prompts (the order holds in fewer than 95 % of their resamples): "
                + open.map { "\(names[$0]) before \(names[$1])" }.joined(separator: ", ") + "."
        }
        return text
    }
}
