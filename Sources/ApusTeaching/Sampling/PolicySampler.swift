import ApusEngine
import ApusText

/// Draws a policy's outputs with the engine, all prompts in one continuous batch.
public struct PolicySampler: Sendable {
    /// The policy behind its engine.
    public let engine: Engine
    /// For the store and messages: the policy's path.
    public let name: String
    /// How outputs are drawn.
    public let plan: SamplingPlan

    /// Requests that are under way at once: enough to fill the batch while others wait.
    private static let openRequests = 64

    /// A sampler over an engine.
    public init(engine: Engine, name: String, plan: SamplingPlan) {
        self.engine = engine
        self.name = name
        self.plan = plan
    }

    /// The tokens a policy reads for a prompt: through its chat template, or text as it stands where it has none.
    public static func tokens(_ prompt: RewardPrompt, _ model: LanguageModel) throws -> [Int32] {
        if model.chatTemplate != nil { return try model.chatTokens(prompt.messages) }
        guard case .text(let text) = prompt.content else { throw ModelError.noChatTemplate }
        return try model.promptTokens(text, raw: true)
    }

    /// Draws outputs of all prompts.
    /// - Parameters:
    ///   - store: a file that keeps them, prompt by prompt; what it holds already is not drawn again.
    ///   - progress: called with prompts done and prompts in all; what it throws ends the drawing.
    /// - Throws: ``OutputStoreError``, ``PolicySamplingError``, `GenerationError`, what `progress` throws.
    public func outputs(
        of prompts: [RewardPrompt], store path: String? = nil, progress: (Int, Int) throws -> Void = { _, _ in }
    ) async throws -> PolicyOutputs {
        let tokens = try prompts.map { try Self.tokens($0, engine.model) }
        let store = try path.map { try OutputStore(path: $0, policy: name, plan, tokens) }
        var outputs = store?.outputs ?? [:]
        let missing = prompts.indices.filter { outputs[$0] == nil }
        var result = PolicyOutputs(outputs: [])
        let start = ContinuousClock.now
        try await withThrowingTaskGroup(of: (Int, [PolicyOutputs.Output]).self) { group in
            var next = missing.makeIterator()
            func add() {
                guard let prompt = next.next() else { return }
                group.addTask { (prompt, try await draw(prompt, tokens[prompt])) }
            }
            for _ in 0..<Self.openRequests { add() }
            while let (prompt, drawn) = try await group.next() {
                outputs[prompt] = drawn
                try store?.append(prompt: prompt, drawn)
                result.drawnTokens += drawn.reduce(0) { $0 + $1.tokens }
                try progress(outputs.count, prompts.count)
                add()
            }
        }
        result.seconds = (ContinuousClock.now - start).inSeconds
        result.outputs = prompts.indices.map { outputs[$0]! }
        return result
    }

    private func draw(_ prompt: Int, _ tokens: [Int32]) async throws -> [PolicyOutputs.Output] {
        var sampling = SamplingParameters()
        sampling.temperature = plan.temperature
        sampling.topP = plan.topP
        sampling.maxTokens = plan.maxTokens
        sampling.seed = plan.seed(ofPrompt: prompt)
        let stream = try engine.submit(
            GenerationRequest(id: "prompt \(prompt)", prompt: tokens, sampling: sampling, samples: plan.outputs))
        return try await stream.rollouts(plan.outputs, prompt: prompt).map {
            PolicyOutputs.Output(text: $0.text, tokens: $0.tokens.count, isComplete: $0.isComplete)
        }
    }
}

/// Outputs that could not be drawn.
public enum PolicySamplingError: Error, Equatable, CustomStringConvertible {
    /// The engine could not answer a prompt.
    case failed(prompt: Int, problem: String)

    /// One sentence for people.
    public var description: String {
        switch self {
        case .failed(let prompt, let problem): "prompt \(prompt): \(problem)"
        }
    }
}
