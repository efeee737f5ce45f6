import ApusModels
import ApusTeaching
import ApusTensor
import ApusTraining
import Testing

/// DPO as a whole.
@Suite struct DirectPreferenceTests {
    /// Answers of low tokens are better than answers of high ones.
    private static func pairs(_ range: Range<Int>) -> [PolicyPair] {
        range.map { number in
            let low = (0..<3 + number % 3).map { Int32(($0 * 7 + number) % 40) }
            let high = (0..<2 + number % 4).map { Int32(100 + ($0 * 11 + number) % 40) }
            return PolicyPair(prompt: [Int32(number % 200), 7], chosen: low, rejected: high)
        }
    }

    @Test func preferencesAreLearnt() async throws {
        let model = try PolicyFixture.model()
        let reference = try TrainableDecoder(MemoryCheckpoint(model), on: model.operations)
        reference.visitParameters { $1.isTrainable = false }
        var settings = Recipe.PolicyGradient()
        settings.kl = 0.1
        settings.microBatchTokens = 50
        let objective = DirectPreferenceObjective(
            model, reference: reference, train: Self.pairs(0..<24), heldOut: Self.pairs(24..<32), settings: settings,
            batchSize: 8, seed: 3)
        let trainer = Trainer(
            model: model, objective: objective, settings: PolicyFixture.trainerSettings(steps: 15, rate: 5e-3))
        // At the start policy and reference are one: log 2.
        let first = try await trainer.makeStep()
        #expect(abs(first.loss - 0.693147) <= 1e-4)
        try await trainer.run { _ in }
        let evaluation = try #require(try objective.evaluate())
        #expect(evaluation.loss < 0.5)
        #expect(evaluation.metrics.first { $0.name == "accuracy" }?.value == 1)
        // The reference stays what it was.
        #expect(reference.parameters().allSatisfy { $0.parameter.gradient == nil })
    }
}
