/// How a reward model's order of outputs agrees with the ground truth's.
public struct RewardAgreement: Sendable {
    private let rewards: [[Double]]
    private let groundTruth: [[Double]]
    /// Accuracy over all pairs of a prompt's outputs, by prompt.
    public let accuracies: [Double]

    /// Rewards and ground truth of the same outputs.
    /// - Throws: ``RewardDataError/differentOutputs(prompt:expected:found:)``.
    public init(_ samples: RewardSamples, groundTruth: RewardSamples) throws {
        let (count, expected) = (samples.rewards.count, groundTruth.rewards.count)
        guard count == expected else {
            throw RewardDataError.differentOutputs(
                prompt: min(count, expected), expected: expected > count ? groundTruth.rewards[count].count : 0,
                found: count > expected ? samples.rewards[expected].count : 0)
        }
        for (prompt, pair) in zip(samples.rewards, groundTruth.rewards).enumerated() where pair.0.count != pair.1.count
        {
            throw RewardDataError.differentOutputs(prompt: prompt, expected: pair.1.count, found: pair.0.count)
        }
        rewards = samples.rewards
        self.groundTruth = groundTruth.rewards
        accuracies = zip(rewards, self.groundTruth).map { pairAccuracy($0, groundTruth: $1) }
    }

    /// The mean over some prompts of the accuracy over all pairs of their outputs.
    public func accuracy(of prompts: [Int]) -> Double {
        prompts.reduce(0) { $0 + accuracies[$1] } / Double(prompts.count)
    }

    /// The mean over some prompts of the ground truth of the best of n outputs by the reward model, over all choices of n
    /// of the prompt's outputs; outputs of equal reward share their chance.
    ///
    /// Precondition: 1 <= n <= outputs of each prompt.
    public func bestOf(_ n: Int, of prompts: [Int]) -> Double {
        prompts.reduce(0) { $0 + Self.bestOf(n, rewards[$1], groundTruth[$1]) } / Double(prompts.count)
    }

    private static func bestOf(_ n: Int, _ rewards: [Double], _ groundTruth: [Double]) -> Double {
        let count = rewards.count
        precondition(n >= 1 && n <= count, "best of \(n) among \(count) outputs")
        // below(i): the share of choices of n that lie among the lowest i outputs.
        func below(_ i: Int) -> Double {
            guard i >= n else { return 0 }
            return (0..<n).reduce(1.0) { $0 * Double(i - $1) / Double(count - $1) }
        }
        let order = rewards.indices.sorted { rewards[$0] < rewards[$1] }
        var expected = 0.0
        var start = 0
        while start < count {
            var end = start
            while end < count, rewards[order[end]] == rewards[order[start]] { end += 1 }
            let mean = order[start..<end].reduce(0) { $0 + groundTruth[$1] } / Double(end - start)
            expected += (below(end) - below(start)) * mean
            start = end
        }
        return expected
    }

    /// One bin of a calibration curve.
    public struct CalibrationBin: Sendable {
        /// The mean probability that the reward model gives to its order: sigmoid of the difference of rewards.
        public let predicted: Double
        /// The share of pairs in which the ground truth agrees; a tie counts half.
        public let observed: Double
        /// Pairs.
        public let pairs: Int
    }

    /// Bradley-Terry's probability of the order against how often it is right, in bins from 0.5 to 1.
    public func calibration(bins: Int = 10) -> [CalibrationBin] {
        var sums = [(predicted: Double, observed: Double, pairs: Int)](repeating: (0, 0, 0), count: bins)
        for (rewards, truth) in zip(rewards, groundTruth) {
            for first in rewards.indices {
                for second in 0..<first {
                    let difference = rewards[first] - rewards[second]
                    let better = truth[first] - truth[second]
                    let predicted = RealPower.sigmoid(abs(difference))
                    let bin = min(bins - 1, Int((predicted - 0.5) * 2 * Double(bins)))
                    sums[bin].predicted += predicted
                    sums[bin].observed += difference * better > 0 ? 1 : difference * better == 0 ? 0.5 : 0
                    sums[bin].pairs += 1
                }
            }
        }
        return sums.filter { $0.pairs > 0 }.map {
            CalibrationBin(
                predicted: $0.predicted / Double($0.pairs), observed: $0.observed / Double($0.pairs), pairs: $0.pairs)
        }
    }

    /// The mean distance between predicted and observed, weighted by pairs.
    public static func calibrationError(_ bins: [CalibrationBin]) -> Double {
        let pairs = bins.reduce(0) { $0 + $1.pairs }
        return pairs == 0
            ? 0 : bins.reduce(0) { $0 + abs($1.predicted - $1.observed) * Double($1.pairs) } / Double(pairs)
    }
}

/// Correlations between two series.
public enum Correlation {
    /// Pearson's, nil where one series does not vary.
    public static func pearson(_ x: [Double], _ y: [Double]) -> Double? {
        precondition(x.count == y.count)
        guard x.count > 1 else { return nil }
        let (meanX, meanY) = (x.reduce(0, +) / Double(x.count), y.reduce(0, +) / Double(y.count))
        var (xx, yy, xy) = (0.0, 0.0, 0.0)
        for (a, b) in zip(x, y) {
            xx += (a - meanX) * (a - meanX)
            yy += (b - meanY) * (b - meanY)
            xy += (a - meanX) * (b - meanY)
        }
        return xx > 0 && yy > 0 ? xy / (xx * yy).squareRoot() : nil
    }

    /// Spearman's: Pearson's of the ranks, equal values sharing the mean of their ranks.
    public static func spearman(_ x: [Double], _ y: [Double]) -> Double? { pearson(ranks(x), ranks(y)) }

    static func ranks(_ values: [Double]) -> [Double] {
        let order = values.indices.sorted { values[$0] < values[$1] }
        var result = [Double](repeating: 0, count: values.count)
        var start = 0
        while start < order.count {
            var end = start
            while end < order.count, values[order[end]] == values[order[start]] { end += 1 }
            for place in start..<end { result[order[place]] = Double(start + end - 1) / 2 + 1 }
            start = end
        }
        return result
    }

    /// Between two reward models on the same outputs, each prompt's mean taken off: do they order a prompt's outputs alike?
    public static func withinPrompts(
        _ x: RewardSamples, _ y: RewardSamples, _ correlation: ([Double], [Double]) -> Double?
    ) -> Double? {
        func centred(_ samples: RewardSamples) -> [Double] {
            samples.rewards.flatMap { values in
                let mean = values.reduce(0, +) / Double(values.count)
                return values.map { $0 - mean }
            }
        }
        return correlation(centred(x), centred(y))
    }
}
