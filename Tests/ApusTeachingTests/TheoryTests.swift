import ApusTeaching
import Foundation
import Testing

/// The theorems' experiments, and the flow they stand on.
@Suite struct TheoryTests {
    let policy = TabularPolicy(logits: [0.3, -1.2, 0.9, 0.1])
    let reward = [0.5, -0.7, 0.1, 0.9]

    /// The objective's central differences.
    @Test func gradientIsThatOfTheObjective() {
        let flow = GradientFlow(reward: reward, initial: policy, klWeight: 0.3, prompts: 2)
        var later = policy
        later.logits = [0.9, -0.4, 0.2, -0.5]
        func objective(_ policy: TabularPolicy) -> Double {
            let (now, first) = (policy.logProbabilities, self.policy.logProbabilities)
            let divergence = now.indices.reduce(0) { $0 + exp(now[$1]) * (now[$1] - first[$1]) }
            return (policy.value(reward) - 0.3 * divergence) / 2
        }
        for (index, slope) in flow.gradient(later).enumerated() {
            var (up, down) = (later, later)
            up.logits[index] += 1e-5
            down.logits[index] -= 1e-5
            #expect(abs((objective(up) - objective(down)) / 2e-5 - slope) <= 1e-9)
        }
    }

    /// The paper's equation of the probabilities' speed against the flow's logits.
    @Test func probabilitiesMoveAsThePaperSays() {
        let flow = GradientFlow(reward: reward, initial: policy)
        let p = policy.probabilities
        let value = policy.value(reward)
        let step = 1e-6
        let after = flow.run(until: step, condition: { _ in false }).path.last!.policy.probabilities
        let drift = zip(p, reward).reduce(0) { $0 + $1.0 * $1.0 * ($1.1 - value) }
        for index in p.indices {
            let expected = p[index] * p[index] * (reward[index] - value) - p[index] * drift
            #expect(abs((after[index] - p[index]) / step - expected) <= 1e-6)
        }
    }

    /// Two outputs with rewards 1 and -1: 2 ln(p / (1 - p)) + (2 p - 1) / (p (1 - p)) grows by 4 in a unit of time.
    @Test func timeEqualsTheClosedForm() throws {
        let flow = GradientFlow(reward: [1, -1], initial: TabularPolicy(probabilities: [0.05, 0.95]))
        func clock(_ p: Double) -> Double { (2 * log(p / (1 - p)) + (2 * p - 1) / (p * (1 - p))) / 4 }
        let found = try #require(flow.run(until: 100) { $0.probabilities[0] >= 0.8 }.time)
        #expect(abs(found - (clock(0.8) - clock(0.05))) <= 1e-6)
        #expect(flow.run(until: found - 1e-3) { $0.probabilities[0] >= 0.8 }.time == nil)
        #expect(flow.run(until: 1) { _ in true }.time == 0)
    }

    @Test func varianceAndValueAreExpectations() {
        let p = policy.probabilities
        #expect(abs(p.reduce(0, +) - 1) <= 1e-15)
        let mean = (0..<4).reduce(0) { $0 + p[$1] * reward[$1] }
        let square = (0..<4).reduce(0) { $0 + p[$1] * reward[$1] * reward[$1] }
        #expect(abs(policy.value(reward) - mean) <= 1e-15)
        #expect(abs(policy.variance(reward) - (square - mean * mean)) <= 1e-14)
    }

    /// Against the sum over all pairs of draws, a tie between different outputs decided by a coin.
    @Test func bestOfTwoEqualsTheSumOverPairs() {
        let proxy = [0.2, 0.7, 0.7, -1]
        let p = policy.probabilities
        var expected = 0.0
        for first in 0..<4 {
            for second in 0..<4 {
                let weight = p[first] * p[second]
                if proxy[first] == proxy[second] {
                    expected += weight * (reward[first] + reward[second]) / 2
                } else {
                    expected += weight * reward[proxy[first] > proxy[second] ? first : second]
                }
            }
        }
        #expect(abs(policy.bestOf(2, by: proxy, groundTruth: reward) - expected) <= 1e-14)
        #expect(abs(policy.bestOf(1, by: proxy, groundTruth: reward) - policy.value(reward)) <= 1e-14)
    }

    @Test func accuracyCountsTiesAsTheirOwnOrder() {
        #expect(pairAccuracy([1, 2, 3], groundTruth: [10, 20, 30]) == 1)
        #expect(pairAccuracy([3, 2, 1], groundTruth: [10, 20, 30]) == 0)
        #expect(pairAccuracy([1, 1, 3], groundTruth: [10, 20, 30]) == 2.0 / 3)
        #expect(pairAccuracy([1, 1, 3], groundTruth: [5, 5, 30]) == 1)
    }

    @Test(arguments: [0, 1, 2] as [UInt64]) func everyInequalityHolds(_ seed: UInt64) {
        let result = TheoryExperiments(instances: 60, seed: seed).run()
        #expect(result.inequalities.count == 8)
        for check in result.inequalities {
            #expect(check.samples.count >= 60 && check.violations == 0, "\(check.name)")
        }
        #expect(result.holds)
        // Most upper bounds on times are reached, so that they were put to the test.
        #expect(result.slowAndFast.count >= 55)
        #expect(result.slowAndFast.count { $0.perfect > $0.misordered } > result.slowAndFast.count / 2)
        #expect(result.perfectModels.allSatisfy { $0.time >= $0.bound })
        #expect(result.html.contains("</html>") && result.table.contains("theorem 3"))
    }

    /// A run is a function of its seed.
    @Test func resultsRepeat() {
        let one = TheoryExperiments(instances: 5, seed: 7).run()
        let two = TheoryExperiments(instances: 5, seed: 7).run()
        #expect(one.json.serialized() == two.json.serialized())
        #expect(one.json.serialized() != TheoryExperiments(instances: 5, seed: 8).run().json.serialized())
    }
}
