import ApusModels
import ApusTensor
import ApusText

/// Draws a frozen policy's outputs on a GPU.
public struct GPUPolicySampler {
    private let engine: GPURolloutEngine
    private let tokens: [[Int32]]
    private let name: String
    private let plan: SamplingPlan

    /// Outputs that are drawn at once.
    private static let sequences = 256

    /// A sampler of a checkpoint's outputs.
    /// - Parameters:
    ///   - name: of the policy, for the store and messages.
    ///   - prompts: what it is asked, through its chat template where it has one.
    ///   - plan: of temperature 1, without a share of tokens that is kept.
    /// - Throws: `GPUDecoderError` where the GPU's decoder does not serve the policy; ``PolicyGradientError``, file errors.
    public init(
        _ checkpoint: any Checkpoint, name: String, prompts: [RewardPrompt], plan: SamplingPlan,
        on operations: DifferentiableOperations
    ) throws {
        precondition(plan.temperature == 1 && plan.topP == 1, "outputs of the policy itself")
        try GPUDecoder.require(checkpoint.configuration)
        let tokenizer = try checkpoint.loadTokenizer()
        let reader = PromptReader(
            tokenizer: tokenizer, template: try checkpoint.chatTemplate().map { try ChatTemplate(source: $0) },
            maxTokens: .max)
        tokens = try prompts.map { try reader.tokens($0) }
        self.name = name
        self.plan = plan
        let model = try TrainableDecoder(checkpoint, on: operations)
        model.visitParameters { $1.isTrainable = false }
        engine = try GPURolloutEngine(
            model, tokenizer: tokenizer, endTokens: PolicyGradientTask.endTokens(checkpoint, tokenizer),
            sizes: RolloutEngine.Sizes(
                promptTokens: tokens.map(\.count).max() ?? 1, outputTokens: plan.maxTokens,
                sequences: min(Self.sequences, max(1, prompts.count * plan.outputs))))
    }

    /// Draws the outputs of all prompts.
    /// - Parameters:
    ///   - store: a file that keeps them, prompt by prompt; what it holds already is not drawn again.
    ///   - progress: called with prompts done and prompts in all; what it throws ends the drawing.
    /// - Throws: ``OutputStoreError``, ``PolicySamplingError``, `CUDAError`, what `progress` throws.
    public func outputs(
        store path: String? = nil, progress: (Int, Int) throws -> Void = { _, _ in }
    ) throws -> PolicyOutputs {
        let store = try path.map { try OutputStore(path: $0, policy: name, plan, tokens) }
        var outputs = store?.outputs ?? [:]
        let missing = tokens.indices.filter { outputs[$0] == nil }
        var result = PolicyOutputs(outputs: [])
        let start = ContinuousClock.now
        let block = max(1, Self.sequences / plan.outputs)
        for first in stride(from: 0, to: missing.count, by: block) {
            let prompts = missing[first..<min(first + block, missing.count)]
            let drawn = try engine.draw(
                prompts.map {
                    RolloutRequest(
                        prompt: $0, tokens: tokens[$0], samples: plan.outputs, seed: plan.seed(ofPrompt: $0))
                })
            for (prompt, drawn) in zip(prompts, drawn) {
                let found = drawn.map {
                    PolicyOutputs.Output(text: $0.text, tokens: $0.tokens.count, isComplete: $0.isComplete)
                }
                outputs[prompt] = found
                try store?.append(prompt: prompt, found)
                result.drawnTokens += found.reduce(0) { $0 + $1.tokens }
            }
            try progress(outputs.count, tokens.count)
        }
        result.seconds = (ContinuousClock.now - start).inSeconds
        result.outputs = tokens.indices.map { outputs[$0]! }
        return result
    }
}
