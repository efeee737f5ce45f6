import ApusTeaching
import ApusText
import Testing

/// The evaluation as a whole, on rewards whose order as teachers is known.
@Suite struct RewardEvaluationTests {
    /// The ground truth, a noisy copy of large variance, and the perfect but flat one: a hundred prompts, eight outputs.
    private func evaluation() throws -> RewardEvaluation {
        var state: UInt64 = 11
        func next() -> Double {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Double(state >> 11) * 0x1p-53 - 0.5
        }
        let truth = (0..<100).map { _ in
            let offset = 2 * next()
            return (0..<8).map { _ in offset + next() }
        }
        let noisy = truth.map { row in row.map { $0 + 0.4 * next() } }
        let flat = truth.map { row in
            let mean = row.reduce(0, +) / 8
            return row.map { mean + 0.001 * ($0 - mean) }
        }
        return try RewardEvaluation(
            policy: "policy", prompts: (0..<100).map { RewardPrompt(.text("prompt <\($0)>")) },
            outputs: Array(repeating: (0..<8).map { "output \($0) & more" }, count: 100),
            rewards: [("flat", flat), ("noisy", noisy), ("truth", truth)], groundTruth: truth,
            preferences: [[1, 1, -1], [1, -1, 0], [1, 1, 1]], resamples: 200)
    }

    @Test func figuresAndRankingFollowTheRewards() throws {
        let evaluation = try evaluation()
        let (flat, noisy, truth) = (evaluation.qualities[0], evaluation.qualities[1], evaluation.qualities[2])
        #expect(flat.onPolicyAccuracy?.value == 1 && truth.onPolicyAccuracy?.value == 1)
        let accuracy = try #require(noisy.onPolicyAccuracy)
        #expect(accuracy.value > 0.7 && accuracy.value < 0.98 && accuracy.low < accuracy.value)
        #expect(flat.variance.value < 1e-4 && flat.nearZeroShare.value == 1)
        #expect(noisy.variance.value > 0.15 && truth.variance.value > 0.15)
        #expect(flat.offPolicyAccuracy.map { abs($0.value - 2.0 / 3) <= 1e-12 } == true)
        #expect(
            truth.offPolicyAccuracy?.value == 1
                && noisy.offPolicyAccuracy.map { abs($0.value - 1.0 / 3) < 1e-12 } == true)
        // The best of n rises with n, most for the accurate ones, and not at all differently for the flat one.
        #expect(truth.bestOfN.map(\.n) == [1, 2, 4, 8])
        #expect(truth.bestOfN.last!.value.value > noisy.bestOfN.last!.value.value)
        #expect(abs(truth.bestOfN.last!.value.value - flat.bestOfN.last!.value.value) <= 1e-12)
        #expect(evaluation.ranking.first == 2)
        #expect(evaluation.precedence[2][0] == 1 && evaluation.precedence[0][2] == 0)
        #expect(evaluation.correlations[0][2].map { abs($0 - 1) <= 1e-9 } == true)
        #expect(evaluation.reading.contains("truth"))
    }

    @Test func theReportHoldsEveryOutputEscaped() throws {
        let evaluation = try evaluation()
        #expect(evaluation.html.contains("prompt &lt;99&gt;") && evaluation.html.contains("output 7 &amp; more"))
        #expect(!evaluation.html.contains("prompt <9"))
        let json = JSONNode(evaluation.json, name: "report")
        #expect(try json.child("samples").elements().count == 100)
        #expect(try json.child("models").elements().map { try $0.string("name") } == ["flat", "noisy", "truth"])
        #expect(evaluation.table.split(separator: "\n").count == 5)
    }
}
