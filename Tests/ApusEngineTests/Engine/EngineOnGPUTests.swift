import ApusEngine
import ApusModels
import ApusTensor
import Testing

/// What an engine says where a GPU does not do what is asked, or is not there.
@Suite struct EngineOnGPUTests {
    private func refusal(_ name: String, _ change: (inout EngineConfiguration) -> Void) throws -> String {
        var configuration = EngineConfiguration()
        configuration.device = .cuda(0)
        configuration.context = 64
        change(&configuration)
        do {
            _ = try Engine(try TestModels.load(name), configuration)
            return "nothing"
        } catch { return "\(error)" }
    }

    @Test func whatGPUsDoNotDoIsNamed() throws {
        let name = "qwen3"
        #expect(try refusal(name) { $0.pageSize = 16 } == "pages of 16 tokens instead of 64: not on cuda:0")
        #expect(try refusal(name) { $0.cacheType = .q8_0 } == "a cache in q8_0 instead of bf16: not on cuda:0")
        #expect(try refusal(name) { $0.isBatchInvariant = true } == "batch-invariant mode: not on cuda:0")
        let draft = try TestModels.load(name)
        #expect(try refusal(name) { $0.speculation = .draftModel(draft) } == "a draft model: not on cuda:0")
        #expect(try refusal("deepseek-v2") { _ in }.contains("expert width: expected a multiple of 8, found 12"))
    }

    @Test func aModelWithoutWeightsNeedsAGPU() throws {
        let whole = try TestModels.load("qwen3")
        let model = LanguageModel(
            configuration: whole.configuration, backend: whole.backend, decoder: nil, tokenizer: whole.tokenizer,
            chatTemplate: nil, samplingDefaults: SamplingParameters(), endTokens: [2], path: nil)
        #expect(whole.hasWeights && !model.hasWeights)
        do {
            _ = try Engine(model)
            Issue.record("an engine on the CPU without weights")
        } catch { #expect("\(error)".contains("without its weights"), "\(error)") }
    }

    @Test(.enabled(if: (try? CUDADevice.count()) ?? 0 == 0, "this machine has a GPU"))
    func aMissingGPUIsNamed() throws {
        let message = try refusal("qwen3") { _ in }
        #expect(message.contains("libcuda") || message.contains("GPU"), "\(message)")
    }
}
