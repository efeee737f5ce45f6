import ApusModels
import ApusTensor
import ApusText
import ApusTraining

/// Policy gradients out of a recipe: the tasks `rloo`, `grpo`, `reinforce` and `ppo`.
public struct PolicyGradientTask: TrainingTask {
    private let task: RecipeTask

    /// The task of an estimator.
    public init(_ task: RecipeTask) { self.task = task }

    /// Reads prompts, opens rewards and the reference.
    /// - Throws: ``PolicyGradientError``, ``RewardError``, ``TeachingDataError``, errors of files.
    public func prepare(_ context: TaskContext) throws -> TaskMaterials {
        let recipe = context.recipe
        let settings = recipe.policyGradient
        guard let start = context.start else {
            throw PolicyGradientError.missing(key: "model.from", task: task.rawValue, needed: "a model to start from")
        }
        let (tokenizer, source) = try context.tokenizer()
        let template = try context.chatTemplate()
        let reader = PromptReader(
            tokenizer: tokenizer, template: template, maxTokens: settings.maxPromptTokens)
        var train = try reader.read(settings.prompts)
        var held = try reader.read(settings.validationPrompts)
        if settings.validationPrompts.isEmpty {
            (train, held) = HeldOut.split(
                train, fraction: settings.validationFraction, seed: recipe.training.seed)
        }
        guard !train.isEmpty else {
            throw PolicyGradientError.noPrompts(
                files: settings.prompts,
                problem: "expected at least one prompt of at most \(settings.maxPromptTokens) tokens, found none")
        }
        // Rewards are opened before anything is drawn: a wrong path costs no time.
        func rewards(_ texts: [String]) throws -> any RewardFunction {
            try RewardSpecification.sum(texts, backend: context.backend, operations: context.operations)
        }
        let reward = try rewards(settings.reward)
        let truth = settings.groundTruth.isEmpty ? nil : try rewards(settings.groundTruth)
        let (drawsOnGPU, note) = try Self.placeOfRollouts(recipe, start.configuration)
        let reference = try PolicyReference.open(
            settings.kl > 0 ? settings.reference : nil, start: start, tokenizer: tokenizer)
        let endTokens = Self.endTokens(start, tokenizer)
        let (task, seed) = (task, UInt64(recipe.training.seed))
        return TaskMaterials(
            tokenizer: tokenizer, tokenizerSource: source, vocabulary: tokenizer.idBound,
            endToken: tokenizer.namedTokens.eos, files: context.companionFiles(of: source),
            summary: "\(train.count) prompts to train on, \(held.count) held out",
            notes: (reader.leftOut > 0
                ? ["\(reader.leftOut) prompts of more than \(settings.maxPromptTokens) tokens are left out"] : [])
                + (note.map { [$0] } ?? [])
        ) { [train, held] model in
            let longest = (train + held).map(\.tokens.count).max() ?? 1
            let sequences = max(
                settings.promptsPerRollout * settings.samples, held.count * settings.evaluationSamples)
            let sizes = RolloutEngine.Sizes(
                promptTokens: longest, outputTokens: settings.maxTokens, sequences: min(sequences, 256))
            let engine: any RolloutSource =
                drawsOnGPU
                ? try GPURolloutEngine(model, tokenizer: tokenizer, endTokens: endTokens, sizes: sizes)
                : try RolloutEngine(
                    model, tokenizer: tokenizer, chatTemplate: template, endTokens: endTokens, sizes: sizes)
            return PolicyGradientObjective(
                model, engine: engine,
                PolicyGradientObjective.Materials(
                    task: task, settings: settings, seed: seed, reward: reward, groundTruth: truth, prompts: train,
                    heldOut: held,
                    reference: settings.kl > 0 ? try PolicyReference.model(reference, on: model.operations) : nil))
        }
    }

    /// Whether outputs are drawn on the GPU that trains, and what people should know of it where they are not.
    /// - Throws: `GPUDecoderError` where the recipe asks for a GPU whose decoder does not serve the policy.
    package static func placeOfRollouts(
        _ recipe: Recipe, _ policy: DecoderConfiguration
    ) throws -> (isGPU: Bool, note: String?) {
        let asked = recipe.policyGradient.rolloutDevice
        guard recipe.training.device != .cpu, asked != .cpu else { return (false, nil) }
        do {
            try GPUDecoder.require(policy)
        } catch {
            guard asked == nil else { throw error }
            return (false, "outputs are drawn on the CPU: \(error)")
        }
        guard recipe.policyGradient.logProbabilities == .trainer else {
            return (false, "outputs are drawn on the CPU, whose engine policy_gradient.log_probabilities asks for")
        }
        return (true, nil)
    }

    /// Tokens that end an output: the configuration's, the generation configuration's and the tokenizer's.
    static func endTokens(_ checkpoint: any Checkpoint, _ tokenizer: Tokenizer) -> Set<Int32> {
        var result = Set(checkpoint.configuration.eosTokens.map { Int32(clamping: $0) })
        result.formUnion(checkpoint.generationDefaults.eosTokens.map { Int32(clamping: $0) })
        if let end = tokenizer.namedTokens.eos { result.insert(end) }
        return result
    }
}

/// Reads prompts as a policy reads them.
final class PromptReader {
    private let tokenizer: Tokenizer
    private let template: ChatTemplate?
    private let maxTokens: Int
    private let extra: [String: JSONValue]
    /// Prompts that were longer.
    private(set) var leftOut = 0

    init(tokenizer: Tokenizer, template: ChatTemplate?, maxTokens: Int) {
        self.tokenizer = tokenizer
        self.template = template
        self.maxTokens = maxTokens
        extra = tokenizer.templateTokens
    }

    /// The prompts of some files, those that are too long left out.
    func read(_ files: [String]) throws -> [PolicyPrompt] {
        var result: [PolicyPrompt] = []
        var index = 0
        for file in files {
            for prompt in try RewardPrompt.read(file) {
                let tokens = try tokens(prompt)
                if tokens.isEmpty || tokens.count > maxTokens {
                    leftOut += 1
                } else {
                    result.append(PolicyPrompt(index: index, prompt: prompt, tokens: tokens))
                }
                index += 1
            }
        }
        return result
    }

    /// A prompt's tokens: through the chat template, or text as it stands.
    func tokens(_ prompt: RewardPrompt) throws -> [Int32] {
        guard let template else {
            let text: String
            switch prompt.content {
            case .text(let content): text = content
            case .messages: throw ChatDataError.noTemplate(model: "the policy")
            }
            return tokenizer.encode(text, addSpecialTokens: true, parseSpecialTokens: true)
        }
        let text = try template.render(messages: prompt.messages, addGenerationPrompt: true, extra: extra)
        return tokenizer.encode(text, addSpecialTokens: false, parseSpecialTokens: true)
    }

    /// An answer's tokens behind its prompt, its end included.
    func answer(_ text: String, to prompt: RewardPrompt) throws -> [Int32] {
        guard let template else {
            let tokens = tokenizer.encode(text, addSpecialTokens: false, parseSpecialTokens: false)
            return tokens + (tokenizer.namedTokens.eos.map { [$0] } ?? [])
        }
        let before = try template.render(messages: prompt.messages, addGenerationPrompt: true, extra: extra)
        let whole = try template.render(
            messages: prompt.messages + [.assistant(text)], addGenerationPrompt: false, extra: extra)
        guard whole.utf8.starts(with: before.utf8) else {
            throw PolicyGradientError.template(String(before.suffix(60)))
        }
        let rest = String(decoding: whole.utf8.dropFirst(before.utf8.count), as: UTF8.self)
        let tokens = tokenizer.encode(rest, addSpecialTokens: false, parseSpecialTokens: true)
        // What a template writes after the token that ends an answer (a newline, often) is not learnt.
        guard let end = tokenizer.namedTokens.eos, let place = tokens.firstIndex(of: end) else { return tokens }
        return Array(tokens[...place])
    }
}

extension Tokenizer {
    /// What chat templates may ask for by name.
    var templateTokens: [String: JSONValue] {
        var result: [String: JSONValue] = [:]
        for (name, id) in [("bos_token", namedTokens.bos), ("eos_token", namedTokens.eos)] {
            guard let id, let spelling = spelling(id) else { continue }
            result[name] = .string(String(decoding: spelling, as: UTF8.self))
        }
        return result
    }
}

/// The frozen model that a policy stays near to.
enum PolicyReference {
    /// The reference's weights: those of a path, or those the policy starts from.
    /// - Throws: ``PolicyGradientError`` where it speaks other tokens.
    static func open(
        _ path: String?, start: any Checkpoint, tokenizer: Tokenizer
    ) throws -> any Checkpoint {
        guard let path else { return start }
        let reference = try Checkpoints.open(path)
        guard case .languageModel = reference.configuration.head else {
            throw PolicyGradientError.referenceHead(path: path)
        }
        let (policy, other) = (start.configuration.vocabularySize, reference.configuration.vocabularySize)
        guard policy == other else {
            throw PolicyGradientError.vocabularies(policy: policy, reference: other, path: path)
        }
        let theirs = try reference.loadTokenizer()
        for token in 0..<Int32(clamping: min(tokenizer.idBound, policy))
        where tokenizer.spelling(token) != theirs.spelling(token) {
            throw PolicyGradientError.tokenizers(path: path)
        }
        return reference
    }

    /// A frozen model of a checkpoint.
    static func model(_ checkpoint: any Checkpoint, on operations: DifferentiableOperations) throws -> TrainableDecoder
    {
        let model = try TrainableDecoder(checkpoint, on: operations)
        model.visitParameters { $1.isTrainable = false }
        return model
    }
}
