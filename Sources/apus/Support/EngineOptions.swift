import ApusEngine
import ApusModels
import ApusTensor
import ArgumentParser

/// Flags of every command that runs an ``Engine``.
struct EngineOptions: ParsableArguments {
    @Option(help: "What computes steps: cpu or cuda (weights and cache in bf16 on the first GPU).")
    var device = ComputeDevice.cpu
    @Option(help: "Tokens of a sequence at most; the model's limit, at most 4096, by default.") var context: Int?
    @Option(
        help: "Tokens that the key-value cache holds over all sequences; 1 GiB of them by default, on a GPU what fits.")
    var cacheTokens: Int?
    @Option(help: "Tokens of a cache page.") var pageSize = 64
    @Option(help: "Sequences that run at once.") var maxSequences = 64
    @Option(help: "Tokens that one step computes at most; 512 by default, on a GPU 8192.") var stepTokens: Int?
    @Option(help: "Requests that wait at most; further ones get 503.") var maxQueuedRequests = 1024
    @Option(help: "Prompt tokens of all waiting requests at most.") var maxQueuedTokens = 1 << 20
    @Option(help: "Who drafts tokens that the model then checks: none, or lookup in the sequence itself.")
    var speculation = BenchEngine.Drafting.none
    @Option(help: "A smaller model of the same vocabulary that drafts tokens.") var draftModel: String?
    @Option(help: "Tokens drafted at once for a sequence at most.") var maxDrafts = 7
    @Flag(help: "Give the same output to the last bit, whatever else runs; costs speed with bf16 weights and latents.")
    var batchInvariant = false
    @Flag(help: "Compute every prompt anew instead of finding the beginnings of earlier ones.")
    var noPrefixCache = false

    func validate() throws {
        for (name, value) in [
            ("context", context ?? 2), ("cache-tokens", cacheTokens ?? 1), ("page-size", pageSize),
            ("max-sequences", maxSequences), ("step-tokens", stepTokens ?? 512),
            ("max-queued-requests", maxQueuedRequests), ("max-queued-tokens", maxQueuedTokens),
            ("max-drafts", maxDrafts),
        ] where !(1...1 << 40).contains(value) {
            throw ValidationError("--\(name): expected an integer from 1 to 2^40, found \(value)")
        }
    }

    /// The engine's configuration.
    /// - Throws: when the draft model cannot be loaded.
    func configuration(for model: LanguageModel, cacheType: DType?) throws -> EngineConfiguration {
        var result = EngineConfiguration()
        result.device = device.device
        result.context = context
        result.cacheTokens = cacheTokens
        result.pageSize = pageSize
        result.cacheType = cacheType
        result.maxSequences = maxSequences
        result.stepTokens = 512
        if device == .cuda { result.takeGPUSteps() }
        if let stepTokens { result.stepTokens = stepTokens }
        result.maxQueuedRequests = maxQueuedRequests
        result.maxQueuedTokens = maxQueuedTokens
        result.usesPrefixCache = !noPrefixCache
        result.isBatchInvariant = batchInvariant
        result.maxDrafts = maxDrafts
        if speculation == .lookup { result.speculation = .promptLookup }
        if let draftModel {
            result.speculation = .draftModel(try LanguageModel.load(path: draftModel, backend: model.backend))
        }
        return result
    }
}
