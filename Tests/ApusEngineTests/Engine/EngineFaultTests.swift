import ApusEngine
import ApusModels
import ApusTensor
import Foundation
import Testing

/// Models that fail, and weights that change.
@Suite struct EngineFaultTests {
    @Test func logitsThatAreNotFiniteEndOnlyTheirRequest() async throws {
        let model = try TestModels.poisoned(token: 50)
        var configuration = EngineConfiguration()
        (configuration.context, configuration.pageSize) = (128, 4)
        let engine = try Engine(model, configuration)
        var parameters = TestModels.greedy(10)
        parameters.logprobs = 1
        let healthy = TestModels.prompt(seed: 3, count: 12).map { $0 == 50 ? 49 : $0 }
        let before = await collect(try engine.submit(GenerationRequest(prompt: healthy, sampling: parameters)))
        #expect(before.error == nil)
        let streams = try (0..<9).map { index in
            try engine.submit(
                GenerationRequest(prompt: index % 3 == 1 ? healthy + [50, 1, 2] : healthy, sampling: parameters))
        }
        for (index, stream) in streams.enumerated() {
            let result = await collect(stream)
            if index % 3 == 1 {
                #expect(result.error == .notFinite(sample: 0, position: 0))
            } else {
                #expect(result.error == nil && result[0].tokens == before[0].tokens)
            }
        }
        // The poisoned pages are not found by anybody.
        let again = await collect(try engine.submit(GenerationRequest(prompt: healthy, sampling: parameters)))
        #expect(again[0].tokens == before[0].tokens)
        let scored = await collect(
            try engine.submit(GenerationRequest(prompt: [50, 1], sampling: parameters, promptLogprobs: 0)))
        #expect(scored.error == .notFinite(sample: 0, position: 0))
        await engine.drain()
        #expect(engine.metrics().usedPages == 0 && engine.metrics().failed == 4)
    }

    @Test func newWeightsAreUsedFromTheNextStepOn() async throws {
        let (old, new) = (try TestModels.load("smollm2"), try TestModels.scaled("smollm2"))
        let prompt = TestModels.prompt(seed: 1, count: 70)
        let parameters = TestModels.greedy(12)
        let expected = try TextSession(new).generate(prompt, parameters)
        let engine = try Engine(old)
        let first = await collect(try engine.submit(GenerationRequest(prompt: prompt, sampling: parameters)))
        #expect(first[0].tokens == (try TextSession(old).generate(prompt, parameters)).tokens)
        #expect(first[0].tokens != expected.tokens)
        let running = try engine.submit(GenerationRequest(prompt: [1, 2], sampling: TestModels.greedy(500)))
        for await event in running { if case .piece = event { break } }
        try await engine.replaceWeights(by: new.decoder)
        let second = await collect(try engine.submit(GenerationRequest(prompt: prompt, sampling: parameters)))
        #expect(second.cached == 0, "what the old weights computed is not found")
        #expect(second[0].tokens == expected.tokens)
        running.cancel()
        await #expect(throws: EngineError.self) {
            try await engine.replaceWeights(by: try TestModels.load("qwen3").decoder)
        }
    }

    @Test(arguments: EmbeddingPooling.allCases) func embeddingsDoNotDependOnTheBatch(_ pooling: EmbeddingPooling)
        async throws
    {
        let model = try TestModels.load("smollm2")
        var configuration = EngineConfiguration()
        (configuration.stepTokens, configuration.maxSequences, configuration.pageSize) = (16, 4, 4)
        let engine = try Engine(model, configuration)
        let prompts = (0..<6).map { TestModels.prompt(seed: $0, count: 5 + 9 * $0) }
        let together = try await engine.embeddings(of: prompts, pooling: pooling)
        for (prompt, vector) in zip(prompts, together) {
            #expect(vector.count == 36)
            #expect(abs(vector.reduce(0) { $0 + $1 * $1 } - 1) < 1e-5)
            let alone = try await Engine(model).embeddings(of: [prompt], pooling: pooling)[0]
            #expect(zip(vector, alone).allSatisfy { abs($0 - $1) < 1e-6 })
        }
        await #expect(throws: EngineError.prompt(.emptyPrompt)) { try await engine.embeddings(of: [[1], []]) }
        await #expect(throws: EngineError.self) { try await engine.scores(of: [[1]]) }
    }

    @Test func scoreHeadsGiveTheirScores() async throws {
        let model = try TestModels.load("llama-reward")
        let engine = try Engine(model)
        let prompts = (0..<5).map { TestModels.prompt(seed: $0, count: 3 + 11 * $0) }
        let scores = try await engine.scores(of: prompts)
        for (prompt, score) in zip(prompts, scores) {
            let expected = try model.decoder.logits(of: prompt)[0]
            #expect(zip(score, expected).allSatisfy { abs($0 - $1) <= 1e-5 * max(abs($1), 1) })
        }
        #expect(throws: EngineError.self) { try engine.submit(GenerationRequest(prompt: [1])) }
    }
}
