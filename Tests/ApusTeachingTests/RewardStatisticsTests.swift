import ApusTeaching
import Foundation
import Testing

/// What is measured of rewards, against plain sums.
@Suite struct RewardStatisticsTests {
    let rewards = [[0.1, 0.9, 0.4], [2, 2, 2.5], [-1, 0, 0.25], [0.3, 0.3, 0.3]]
    let truth = [[1, 3, 2], [5, 4, 6], [0.5, 0.25, 0.75], [1, 2, 3]]

    private func variance(_ values: [Double], _ divisor: Double) -> Double {
        let mean = values.reduce(0, +) / Double(values.count)
        return values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / divisor
    }

    @Test func varianceIsThatOfNormalisedRewards() throws {
        let samples = try RewardSamples(rewards)
        let pooled = rewards.flatMap { $0 }
        let total = variance(pooled, 12)
        #expect(abs(samples.normalisation.deviation - total.squareRoot()) <= 1e-14)
        #expect(abs(samples.normalisation.mean - pooled.reduce(0, +) / 12) <= 1e-14)
        let own = rewards.map { variance($0, 2) / total }
        #expect(abs(samples.variance(of: [0, 1, 2, 3]) - own.reduce(0, +) / 4) <= 1e-14)
        let roots = own.map { $0.squareRoot() }.reduce(0, +) / 4
        #expect(abs(samples.variance(of: [0, 1, 2, 3], power: 0.5) - roots) <= 1e-14)
        #expect(samples.nearZeroShare(of: [0, 1, 2, 3]) == 0.25)
        // The same rewards times a constant and moved are the same teacher.
        let moved = try RewardSamples(rewards.map { $0.map { 7 * $0 - 3 } })
        #expect(abs(moved.variance(of: [0, 1, 2, 3]) - samples.variance(of: [0, 1, 2, 3])) <= 1e-12)
    }

    /// Shrinking every prompt's rewards towards its own mean keeps the order and lowers the variance; scaling half of the
    /// prompts need not.
    @Test func shrinkingTowardsThePromptsMeanLowersTheVariance() throws {
        let shrunk = rewards.map { values in
            let mean = values.reduce(0, +) / Double(values.count)
            return values.map { mean + 0.001 * ($0 - mean) }
        }
        let (whole, low) = (try RewardSamples(rewards), try RewardSamples(shrunk))
        #expect(low.variance(of: [0, 1, 2, 3]) < 1e-5 * whole.variance(of: [0, 1, 2, 3]))
        #expect(low.withinShare(of: [0, 1, 2, 3]) < 1e-5 && whole.withinShare(of: [0, 1, 2, 3]) > 0.01)
        #expect(try RewardSamples([[1, 1], [1, 1]]).variance(of: [0, 1]) == 0)
    }

    @Test func withinShareIsOneWithoutDifferencesBetweenPrompts() throws {
        let same = try RewardSamples([[0, 1, 2], [2, 0, 1], [1, 2, 0]])
        #expect(same.withinShare(of: [0, 1, 2]) == 1)
    }

    @Test func agreementCountsPairs() throws {
        let agreement = try RewardAgreement(try RewardSamples(rewards), groundTruth: try RewardSamples(truth))
        #expect(agreement.accuracies == [1, 2.0 / 3, 2.0 / 3, 0])
        #expect(abs(agreement.accuracy(of: [0, 1]) - 5.0 / 6) <= 1e-15)
    }

    /// Against all choices of two outputs.
    @Test func bestOfNIsTheMeanOverAllChoices() throws {
        let values = [[0.5, 0.2, 0.5, 0.9], [1, 2, 3, 4]]
        let goals = [[1.0, 7, 3, -2], [4, 3, 2, 1]]
        let agreement = try RewardAgreement(try RewardSamples(values), groundTruth: try RewardSamples(goals))
        for prompt in 0..<2 {
            var sum = 0.0
            for first in 0..<4 {
                for second in 0..<first {
                    let (one, two) = (values[prompt][first], values[prompt][second])
                    let (a, b) = (goals[prompt][first], goals[prompt][second])
                    sum += one > two ? a : one < two ? b : (a + b) / 2
                }
            }
            #expect(abs(agreement.bestOf(2, of: [prompt]) - sum / 6) <= 1e-14)
        }
        #expect(abs(agreement.bestOf(1, of: [0]) - 2.25) <= 1e-14)
        #expect(abs(agreement.bestOf(4, of: [0, 1]) + 0.5) <= 1e-14)
    }

    @Test func calibrationComparesProbabilitiesWithShares() throws {
        // Differences of 0 (a tie) and ln 3 (probability 0.75).
        let agreement = try RewardAgreement(
            try RewardSamples([[0, log(3)], [log(3), 0], [0, 0]]),
            groundTruth: try RewardSamples([[0, 1], [0, 1], [0, 1]]))
        let bins = agreement.calibration(bins: 4)
        #expect(bins.map(\.pairs) == [1, 2])
        #expect(abs(bins[1].predicted - 0.75) <= 1e-12 && bins[1].observed == 0.5 && bins[0].observed == 0.5)
        #expect(abs(RewardAgreement.calibrationError(bins) - (0 * 1 + 0.25 * 2) / 3) <= 1e-12)
    }

    @Test func correlationsOfRanksShareTies() {
        #expect(Correlation.pearson([1, 2, 3], [2, 4, 6]) == 1)
        #expect(Correlation.pearson([1, 1, 1], [2, 4, 6]) == nil)
        let found = Correlation.spearman([1, 2, 2, 4], [1, 3, 2, 4])
        // Ranks 1, 2.5, 2.5, 4 against 1, 3, 2, 4: covariance 4.5 over the root of 4.5 times 5.
        #expect(abs((found ?? 0) - 4.5 / (4.5 * 5.0).squareRoot()) <= 1e-14)
    }

    @Test func intervalsHoldTheValueAndPairTheModels() throws {
        var state: UInt64 = 3
        func next() -> Double {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Double(state >> 11) * 0x1p-53
        }
        let values = (0..<60).map { prompt in (0..<8).map { _ in Double(prompt) / 10 + next() } }
        let wider = values.enumerated().map { prompt, row in
            row.map { Double(prompt) / 10 + 3 * ($0 - Double(prompt) / 10) }
        }
        let (narrow, wide) = (try RewardSamples(values), try RewardSamples(wider))
        let bootstrap = Bootstrap(prompts: 60, resamples: 300, seed: 1)
        let estimate = bootstrap.estimate { narrow.variance(of: $0) }
        #expect(estimate.low < estimate.value && estimate.value < estimate.high)
        #expect(estimate.high - estimate.low < estimate.value)
        #expect(bootstrap.probability({ wide.variance(of: $0) }, above: { narrow.variance(of: $0) }) == 1)
        #expect(bootstrap.probability({ wide.variance(of: $0) }, above: { wide.variance(of: $0) }) == 0.5)
    }

    @Test func badRewardsAreNamed() {
        #expect(throws: RewardDataError.noPrompts) { try RewardSamples([]) }
        #expect(throws: RewardDataError.tooFewOutputs(prompt: 1, found: 1)) { try RewardSamples([[1, 2], [1]]) }
        #expect(throws: RewardDataError.self) { try RewardSamples([[1, .nan]]) }
        #expect(throws: RewardDataError.differentOutputs(prompt: 1, expected: 3, found: 2)) {
            try RewardAgreement(
                try RewardSamples([[1, 2], [1, 2]]), groundTruth: try RewardSamples([[1, 2], [1, 2, 3]]))
        }
    }
}
