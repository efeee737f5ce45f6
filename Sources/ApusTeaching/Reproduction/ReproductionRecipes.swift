import ApusText
import ApusTraining

/// The recipes of the reproduction's runs: each is written into its run's folder, and can be run again by `apus train`.
struct ReproductionRecipes {
    let plan: ReproductionPlan
    let folder: String

    /// How conversations are written: questions and answers in plain words, an answer ended by the end of a document.
    static let template = """
        {% for m in messages %}{% if m.role == 'assistant' %}{{ 'Answer:\\n' + m.content + '<|endoftext|>' }}\
        {% else %}{{ 'Question: ' + m.content + '\\n' }}{% endif %}{% endfor %}\
        {% if add_generation_prompt %}{{ 'Answer:\\n' }}{% endif %}
        """

    private static func quoted(_ text: String) -> String { JSONValue.string(text).serialized() }
    private static func list(_ texts: [String]) -> String { "[" + texts.map(quoted).joined(separator: ", ") + "]" }
    private func path(_ name: String) -> String { "\(folder)/\(name)" }
    private func quotedPath(_ name: String) -> String { Self.quoted(path(name)) }

    private func parsed(_ text: String, output: String) throws -> Recipe {
        try Recipe.parse(text, name: output, overrides: ["training.output=\(quotedPath(output))"])
    }

    /// A policy that has read books.
    func pretraining(output: String) throws -> Recipe {
        try parsed(
            """
            model: {attention: gqa, hidden_size: \(plan.hiddenSize), layers: \(plan.layers), heads: \(plan.heads)}
            data:
              text: \(Self.list(plan.books))
              validation_text: \(Self.list(plan.heldOutBooks))
              train_vocabulary: \(plan.vocabulary)
              sequence_length: \(plan.sequenceLength)
              batch_size: \(max(1, 4096 / plan.sequenceLength))
            optimizer: {learning_rate: 3e-3}
            training:
              device: \(plan.device)
              tokens: \(plan.pretrainingTokens)
              seed: \(plan.seed)
              evaluate_every: 0
              keep_checkpoints: 1
            """, output: output)
    }

    /// A policy that answers.
    func fineTuning(from base: String, chat: String, output: String) throws -> Recipe {
        try parsed(
            """
            model: {from: \(Self.quoted(base))}
            data:
              chat: \(quotedPath(chat))
              \(plan.policy == nil ? "chat_template: \(quotedPath("template.jinja"))" : "")
              validation_fraction: 0.05
              sequence_length: \(plan.sequenceLength)
              batch_size: \(max(1, 2048 / plan.sequenceLength))
            optimizer: {learning_rate: \(plan.policy == nil ? 1e-3 : 2e-5)}
            training:
              device: \(plan.device)
              steps: \(plan.fineTuningSteps)
              seed: \(plan.seed)
              evaluate_every: 100
              checkpoint_every: 0
              keep_checkpoints: 1
            """, output: output)
    }

    /// A reward model from a mix of on-policy and off-policy pairs.
    func reward(share: Double, pairs: Int, from policy: String, output: String) throws -> Recipe {
        try reward(
            """
              on_policy: \(quotedPath("on-policy.jsonl"))
              off_policy: \(quotedPath("off-policy.jsonl"))
              on_policy_share: \(share)
              pairs: \(pairs)
            """, pairs: pairs, from: policy, output: output)
    }

    /// A reward model from what people preferred.
    func groundTruth(pairs: Int, from policy: String, output: String) throws -> Recipe {
        try reward("  off_policy: \(quotedPath("human.jsonl"))", pairs: pairs, from: policy, output: output)
    }

    private func reward(_ data: String, pairs: Int, from policy: String, output: String) throws -> Recipe {
        try parsed(
            """
            task: reward
            model: {from: \(Self.quoted(policy))}
            data: {sequence_length: \(plan.sequenceLength), batch_size: 16}
            reward:
            \(data)
              epochs: \(plan.rewardEpochs)
              validation_fraction: 0.1
            optimizer: {learning_rate: \(plan.rewardLearningRate), weight_decay: 0.01}
            training:
              device: \(plan.device)
              seed: \(plan.seed)
              evaluate_every: \(max(10, pairs / 64))
              checkpoint_every: 0
              keep_checkpoints: 1
            """, output: output)
    }

    /// A policy gradient by one teacher.
    func policyGradient(
        _ task: String, teacher: Teacher, groundTruth: [String], seed: Int, from policy: String, output: String
    ) throws -> Recipe {
        try parsed(
            """
            task: \(task)
            model: {from: \(Self.quoted(policy))}
            data: {sequence_length: \(plan.sequenceLength)}
            policy_gradient:
              prompts: \(quotedPath("prompts.jsonl"))
              validation_prompts: \(quotedPath("measured-prompts.jsonl"))
              reward: \(Self.list(teacher.rewards))
              ground_truth: \(Self.list(groundTruth))
              prompts_per_rollout: \(plan.promptsPerStep)
              samples: \(plan.samples)
              max_tokens: \(plan.outputTokens)
              max_prompt_tokens: \(plan.sequenceLength - plan.outputTokens)
              kl: 0.05
              clip: 0.2
              reward_scale_factor: \(teacher.scale)
              reward_scale_share: \(teacher.scaledShare)
              reward_scale_about: \(teacher.scalesAboutMean ? "prompt_mean" : "zero")
              evaluation_samples: \(plan.measuredSamples)
            optimizer: {learning_rate: \(plan.learningRate), weight_decay: 0}
            schedule: {kind: constant, warmup_steps: 0}
            training:
              device: \(plan.device)
              steps: \(plan.steps)
              seed: \(seed)
              evaluate_every: \(plan.evaluateEvery)
              checkpoint_every: 0
              keep_checkpoints: 1
              log_every: 1
            """, output: output)
    }
}

/// A reward that a policy learns from.
struct Teacher: Sendable, Equatable {
    /// For tables.
    let name: String
    /// For folders.
    let key: String
    /// As recipes name rewards.
    let rewards: [String]
    /// Multiplies the rewards of some prompts.
    var scale = 1.0
    /// The share of these prompts.
    var scaledShare = 0.5
    /// Whether these rewards shrink towards their prompt's mean, rather than towards 0.
    var scalesAboutMean = false
    /// Whether it is one of the paper's six (five reward models and the perfectly accurate one of low variance).
    var isOfPaper = true
}
