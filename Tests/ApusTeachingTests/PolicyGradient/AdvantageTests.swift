import ApusTeaching
import Testing

/// Advantages against closed forms, and how outputs are shared out.
@Suite struct AdvantageTests {
    private func isNear(_ found: [Double], _ expected: [Double], _ tolerance: Double = 1e-12) -> Bool {
        found.count == expected.count && zip(found, expected).allSatisfy { abs($0 - $1) <= tolerance }
    }

    @Test func leaveOneOutComparesWithTheOthersOnly() {
        #expect(isNear(Advantages.leaveOneOut([1, 2, 6]), [1 - 4, 2 - 3.5, 6 - 1.5]))
        // n / (n - 1) times the distance from the mean.
        #expect(isNear(Advantages.leaveOneOut([3, -1]), [4, -4]))
        #expect(Advantages.leaveOneOut([5]) == [0])
        #expect(Advantages.leaveOneOut([2, 2, 2]) == [0, 0, 0])
    }

    @Test func groupRelativeDividesByTheUnbiasedDeviation() {
        let root = 7.0.squareRoot()
        #expect(
            isNear(
                Advantages.groupRelative([1, 2, 6], dividesByDeviation: true),
                [-2, -1, 3].map { $0 / (root + 1e-4) }))
        #expect(isNear(Advantages.groupRelative([1, 2, 6], dividesByDeviation: false), [-2, -1, 3]))
        #expect(Advantages.groupRelative([4, 4], dividesByDeviation: true) == [0, 0])
    }

    /// Lambda 1: the discounted return less the value; lambda 0: the temporal difference.
    @Test func generalizedAdvantagesHaveTheirLimits() {
        let (rewards, values) = ([0.5, -1, 2], [0.25, 1, -0.5])
        let full = Advantages.generalized(rewards: rewards, values: values, discount: 0.9, lambda: 1)
        let returns = [0.5 + 0.9 * (-1 + 0.9 * 2), -1 + 0.9 * 2, 2]
        #expect(isNear(full.returns, returns))
        #expect(isNear(full.advantages, zip(returns, values).map { $0 - $1 }))
        let none = Advantages.generalized(rewards: rewards, values: values, discount: 0.9, lambda: 0)
        #expect(isNear(none.advantages, [0.5 + 0.9 * 1 - 0.25, -1 + 0.9 * -0.5 - 1, 2 + 0.5]))
        let half = Advantages.generalized(rewards: rewards, values: values, discount: 0.9, lambda: 0.5)
        let delta = none.advantages
        #expect(
            isNear(
                half.advantages, [delta[0] + 0.45 * (delta[1] + 0.45 * delta[2]), delta[1] + 0.45 * delta[2], delta[2]])
        )
    }

    @Test func whiteningGivesMeanZeroAndVarianceOne() {
        let white = Advantages.whitened([1, 5, -3, 9])
        #expect(abs(white.reduce(0, +)) <= 1e-12)
        #expect(abs(GroupSpread.variance(white) - 1) <= 1e-7)
        #expect(Advantages.whitened([3]) == [3])
    }

    @Test func furtherOutputsGoWhereRewardsDiffer() {
        #expect(GroupSpread.allocation(of: 8, deviations: [1, 0, 3]) == [2, 0, 6])
        #expect(GroupSpread.allocation(of: 5, deviations: [0, 0, 0]) == [2, 2, 1])
        #expect(GroupSpread.allocation(of: 7, deviations: [1, 1, 1]).reduce(0, +) == 7)
        #expect(GroupSpread.allocation(of: 0, deviations: [1, 2]) == [0, 0])
    }

    /// A share of the prompts, exactly; scaling about the prompt's mean keeps the mean.
    @Test func rewardsOfAShareOfThePromptsAreScaled() throws {
        var shaping = RewardShaping(factor: 0.001, share: 0.3, about: .promptMean, seed: 5)
        #expect((0..<40).count { shaping.isScaled($0, of: 40) } == 12)
        let scaled = try #require((0..<40).first { shaping.isScaled($0, of: 40) })
        let shaped = shaping.shaped([10, 20, 60], prompt: scaled, of: 40)
        #expect(isNear(shaped, [29.98, 29.99, 30.03], 1e-9))
        let plain = try #require((0..<40).first { !shaping.isScaled($0, of: 40) })
        #expect(shaping.shaped([10, 20, 60], prompt: plain, of: 40) == [10, 20, 60])
        shaping.about = .zero
        #expect(isNear(shaping.shaped([10, -20], prompt: scaled, of: 40), [0.01, -0.02], 1e-12))
        // The pooled mean and deviation of what is learnt from, scaling included.
        try shaping.normalize(by: [[1, 3], [1000, 3000]], prompts: [plain, scaled], of: 40)
        let all = shaping.shaped([1, 3], prompt: plain, of: 40) + shaping.shaped([1000, 3000], prompt: scaled, of: 40)
        #expect(isNear(all, [-1, 1, -1, 1], 1e-12))
    }
}
