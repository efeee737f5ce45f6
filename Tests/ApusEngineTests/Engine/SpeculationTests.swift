import ApusEngine
import Testing

/// Drafts change how fast tokens come, not which: sampled tokens have the distribution that they have without.
@Suite struct SpeculationTests {
    private static let draws = 6400

    /// How often each token came at the second and at the third place, over many seeds; drafting begins with the second.
    private func counts(
        _ model: LanguageModel, _ speculation: Speculation, seed: UInt64, temperature: Double = 1
    ) async throws -> (second: [Double], third: [Double], metrics: EngineMetrics) {
        var configuration = EngineConfiguration()
        (configuration.context, configuration.speculation, configuration.maxDrafts) = (64, speculation, 2)
        (configuration.maxQueuedRequests, configuration.adaptsDrafts) = (Self.draws, false)
        let engine = try Engine(model, configuration)
        var parameters = TestModels.greedy(4)
        (parameters.temperature, parameters.topP, parameters.topK) = (temperature, 0.95, 50)
        var second = Array(repeating: 0.0, count: TestModels.vocabulary)
        var third = second
        let prompt = TestModels.prompt(seed: 3, count: 8)
        let streams = try (0..<Self.draws).map { index in
            parameters.seed = seed &+ UInt64(index)
            return try engine.submit(GenerationRequest(prompt: prompt, sampling: parameters))
        }
        for stream in streams {
            let tokens = await collect(stream)[0].tokens
            second[Int(tokens[1].token)] += 1
            third[Int(tokens[2].token)] += 1
        }
        return (second, third, engine.metrics())
    }

    /// Pearson's statistic of two samples of equal size, in standard deviations from its mean.
    private func distance(_ a: [Double], _ b: [Double]) -> Double {
        let cells = zip(a, b).filter { $0 + $1 > 0 }
        let statistic = cells.reduce(0.0) { $0 + ($1.0 - $1.1) * ($1.0 - $1.1) / ($1.0 + $1.1) }
        let freedom = Double(cells.count - 1)
        return (statistic - freedom) / (2 * freedom).squareRoot()
    }

    @Test func samplesHaveTheSameDistributionWithADraftModel() async throws {
        let model = try TestModels.scaled("smollm2")
        let draft = try TestModels.load("smollm2")
        let plain = try await counts(model, .none, seed: 1)
        let again = try await counts(model, .none, seed: 100_001)
        let drafted = try await counts(model, .draftModel(draft), seed: 200_001)
        // The draft model must differ, so that some drafts are accepted and some are not.
        #expect(drafted.metrics.draftedTokens > 1000)
        #expect(drafted.metrics.acceptedTokens > drafted.metrics.draftedTokens / 20)
        #expect(drafted.metrics.acceptedTokens < drafted.metrics.draftedTokens * 19 / 20)
        #expect(abs(distance(plain.second, again.second)) < 4)
        #expect(abs(distance(plain.second, drafted.second)) < 4)
        #expect(abs(distance(plain.third, drafted.third)) < 4)
        // The measure sees differences of this size.
        let draftAlone = try await counts(draft, .none, seed: 1)
        #expect(distance(plain.second, draftAlone.second) > 20)
    }
}
