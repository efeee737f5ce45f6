import ApusEngine
import ApusModels
import ApusTensor
import Foundation
import Testing

@Suite struct EngineTests {
    let model: LanguageModel

    init() throws { model = try TestModels.load("smollm2") }

    @Test func oneRequestGivesWhatASessionGives() async throws {
        let prompt: [Int32] = [1, 5, 9, 2, 7]
        let parameters = TestModels.greedy(20)
        let expected = try TextSession(model).generate(prompt, parameters)
        let engine = try Engine(model)
        let result = await collect(try engine.submit(GenerationRequest(prompt: prompt, sampling: parameters)))
        #expect(result[0].tokens.map(\.token) == expected.tokens.map(\.token))
        #expect(result[0].text == expected.text)
        #expect(result[0].reason == expected.finishReason)
    }

    @Test func manyRequestsAtOnceGiveWhatEachGivesAlone() async throws {
        let prompts = (0..<24).map { TestModels.prompt(seed: $0, count: 1 + $0 * 7 % 90) }
        let parameters = TestModels.greedy(30)
        var configuration = EngineConfiguration()
        (configuration.stepTokens, configuration.maxSequences, configuration.context) = (64, 8, 256)
        let engine = try Engine(model, configuration)
        let streams = try prompts.map { try engine.submit(GenerationRequest(prompt: $0, sampling: parameters)) }
        for (prompt, stream) in zip(prompts, streams) {
            let expected = try TextSession(model).generate(prompt, parameters)
            let result = await collect(stream)
            #expect(result[0].tokens.map(\.token) == expected.tokens.map(\.token))
        }
        let metrics = engine.metrics()
        #expect(metrics.generationTokens == 24 * 30)
        #expect(metrics.promptTokens == prompts.reduce(0) { $0 + $1.count })
        #expect(metrics.usedPages == 0)
    }
}
