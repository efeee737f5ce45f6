import ApusEngine
import ApusModels
import ApusTensor
import Foundation
import Testing

/// In batch-invariant mode a request's output is the same to the last bit alone, in any batch, however its prompt is cut,
/// whatever is found in the prefix cache, and with drafts or without.
@Suite struct EngineInvarianceTests {
    private struct Setting {
        var stepTokens = 128
        var maxSequences = 16
        var pageSize = 64
        var speculation = Speculation.none
        var cacheTokens: Int?
        var adaptsDrafts = true
    }

    /// Log-probabilities in full show the bits of the logits, not only which is largest.
    private func run(
        _ model: LanguageModel, _ prompts: [[Int32]], _ setting: Setting, temperature: Double
    ) async throws -> ([[SampledToken]], EngineMetrics) {
        var configuration = EngineConfiguration()
        configuration.context = 512
        configuration.isBatchInvariant = true
        (configuration.stepTokens, configuration.maxSequences) = (setting.stepTokens, setting.maxSequences)
        (configuration.pageSize, configuration.speculation) = (setting.pageSize, setting.speculation)
        (configuration.cacheTokens, configuration.adaptsDrafts) = (setting.cacheTokens, setting.adaptsDrafts)
        let engine = try Engine(model, configuration)
        var parameters = TestModels.greedy(40)
        (parameters.temperature, parameters.logprobs) = (temperature, 2)
        let streams = try prompts.enumerated().map { index, prompt in
            parameters.seed = UInt64(index)
            return try engine.submit(GenerationRequest(prompt: prompt, sampling: parameters))
        }
        var results: [[SampledToken]] = []
        for stream in streams { results.append(await collect(stream)[0].tokens) }
        return (results, engine.metrics())
    }

    private func check(_ model: LanguageModel) async throws {
        let vocabulary = model.decoder.outputWidth
        let shared = TestModels.prompt(seed: 77, count: 200, vocabulary: vocabulary)
        let prompts = (0..<10).map { index in
            index % 2 == 0
                ? TestModels.prompt(seed: index, count: 3 + index * 21, vocabulary: vocabulary)
                : shared + [Int32(index)]
        }
        for temperature in [0, 0.8] {
            var alone: [[SampledToken]] = []
            for (index, prompt) in prompts.enumerated() {
                // The seed goes with the place, so others are run as one token.
                var list = Array(repeating: [Int32(1)], count: index)
                list.append(prompt)
                alone.append(try await run(model, list, Setting(maxSequences: 1), temperature: temperature).0[index])
            }
            for setting in [
                Setting(), Setting(stepTokens: 17, maxSequences: 5, pageSize: 4), Setting(pageSize: 1),
                Setting(speculation: .promptLookup), Setting(stepTokens: 40, cacheTokens: 640),
            ] {
                let (together, metrics) = try await run(model, prompts, setting, temperature: temperature)
                #expect(together == alone, "\(setting)")
                if setting.pageSize == 4 { #expect(metrics.prefixHits > 0) }
            }
        }
    }

    @Test(arguments: ["smollm2", "llama-bf16", "qwen3", "gptneox", "mla", "gta", "deepseek-v2"])
    func outputDoesNotDependOnTheBatch(_ name: String) async throws {
        try await check(try TestModels.load(name))
    }

    @Test(arguments: [DType.q8_0, .q4_1]) func norWithQuantisedWeights(_ type: DType) async throws {
        try await check(try TestModels.wide(type))
    }

    @Test(arguments: ["smollm2", "llama-bf16"]) func greedyTextIsTheSameWithADraftModel(_ name: String) async throws {
        let model = try TestModels.load(name)
        let prompts = (0..<4).map { TestModels.prompt(seed: 40 + $0, count: 30) }
        let plain = try await run(model, prompts, Setting(), temperature: 0)
        // The model drafts for itself: all is accepted but what a near tie decides otherwise, since drafting is not
        // batch-invariant. Another model: hardly anything is. How many drafts pay depends on the clock, so it is not asked.
        for draft in [model, try TestModels.load("qwen3")] where draft.decoder.outputWidth == model.decoder.outputWidth
        {
            let drafted = try await run(
                model, prompts, Setting(speculation: .draftModel(draft), adaptsDrafts: false), temperature: 0)
            #expect(drafted.0 == plain.0)
            #expect(drafted.1.draftedTokens > 0)
            if draft === model { #expect(drafted.1.acceptedTokens * 10 >= drafted.1.draftedTokens * 8) }
        }
    }
}
