import ApusTensor

extension Recipe {
    /// What a policy gradient, or DPO, is told.
    public struct PolicyGradient: Sendable, Equatable {
        /// JSON Lines of prompts to train on.
        public var prompts: [String] = []
        /// JSON Lines of prompts that are held out.
        public var validationPrompts: [String] = []
        /// The share of the prompts (DPO: pairs) that is held out where there are no such files.
        public var validationFraction = 0.05
        /// Preference pairs that DPO learns from.
        public var pairs: [String] = []
        /// Preference pairs that are held out.
        public var validationPairs: [String] = []
        /// Rewards, summed; each may begin with a weight: `0.1*length:50`.
        public var reward: [String] = []
        /// What rewards stand for, measured on held-out prompts only.
        public var groundTruth: [String] = []
        /// A model to stay near to; nil: the one the run starts from.
        public var reference: String?
        /// Prompts of a rollout.
        public var promptsPerRollout = 16
        /// Outputs of a prompt.
        public var samples = 4
        /// Tokens of an output at most.
        public var maxTokens = 128
        /// Tokens of a prompt at most; longer ones are left out.
        public var maxPromptTokens = 256
        /// Where outputs are drawn; nil: where the policy is trained, if what draws there serves it.
        public var rolloutDevice: Device?
        /// Optimiser steps that a rollout's outputs are gone through, each in `minibatches`.
        public var epochs = 1
        /// Parts of a rollout that make a step each.
        public var minibatches = 1
        /// Tokens of a micro-batch at most, unless a single output has more.
        public var microBatchTokens = 8192
        /// Factor of the KL divergence from the reference (DPO: beta).
        public var kl = 0.05
        /// How far a ratio of probabilities falls below 1 before it is clipped.
        public var clip = 0.2
        /// How far it rises above 1; nil: as far.
        public var clipHigh: Double?
        /// Whose log-probabilities ratios compare.
        public var logProbabilities = PolicyLogProbabilities.trainer
        /// Whether GRPO divides by the group's standard deviation.
        public var divideByDeviation = true
        /// What GRPO's losses of tokens are averaged over.
        public var average = PolicyAverage.sequence
        /// Subtracted from the reward of outputs that the limit cut.
        public var incompletePenalty = 0.0
        /// Prompts whose outputs of the initial policy rewards are normalised with; 0: rewards stay as they are.
        public var normalizationPrompts = 100
        /// Outputs of each of these prompts.
        public var normalizationSamples = 10
        /// Multiplies the rewards of a share of the prompts.
        public var rewardScaleFactor = 1.0
        /// That share.
        public var rewardScaleShare = 0.5
        /// What those rewards are scaled about.
        public var rewardScaleAbout = RewardScaleCentre.zero
        /// What becomes of groups whose rewards are all equal.
        public var zeroVariance = ZeroVarianceGroups.keep
        /// How outputs are shared among prompts.
        public var allocation = RolloutAllocation.uniform
        /// Outputs of each held-out prompt in an evaluation.
        public var evaluationSamples = 4
        /// PPO: factor of a later reward's worth per token.
        public var discount = 1.0
        /// PPO: lambda of generalised advantage estimation.
        public var lambda = 0.95
        /// PPO: factor of the value loss.
        public var valueWeight = 0.1
        /// PPO: how far a value moves from the one before the update at most.
        public var valueClip = 0.2

        /// The defaults.
        public init() {}
    }

    static let policyGradientFields = [
        RecipeField(
            "policy_gradient.prompts", \.policyGradient.prompts, .impossible, "JSON Lines of prompts to train on"),
        RecipeField(
            "policy_gradient.validation_prompts", \.policyGradient.validationPrompts, .trajectory,
            "JSON Lines of prompts that are held out"),
        RecipeField(
            "policy_gradient.validation_fraction", \.policyGradient.validationFraction, .impossible,
            "share of the prompts (dpo: of the pairs) that is held out where there are no such files"),
        RecipeField(
            "policy_gradient.pairs", \.policyGradient.pairs, .impossible, "dpo: JSON Lines of preference pairs"),
        RecipeField(
            "policy_gradient.validation_pairs", \.policyGradient.validationPairs, .trajectory,
            "dpo: JSON Lines of pairs that are held out"),
        RecipeField(
            "policy_gradient.reward", \.policyGradient.reward, .trajectory,
            "rewards, summed: reward models' folders, verifiers, `process:COMMAND`, `http://...`; each may begin with a weight, "
                + "`0.1*length:50`"),
        RecipeField(
            "policy_gradient.ground_truth", \.policyGradient.groundTruth, .trajectory,
            "what the reward stands for, measured on held-out prompts only"),
        RecipeField(
            "policy_gradient.reference", \.policyGradient.reference, .trajectory,
            "a model that the policy stays near to; null: model.from"),
        RecipeField(
            "policy_gradient.prompts_per_rollout", \.policyGradient.promptsPerRollout, .impossible,
            "prompts of a rollout"),
        RecipeField("policy_gradient.samples", \.policyGradient.samples, .trajectory, "outputs of a prompt"),
        RecipeField(
            "policy_gradient.max_tokens", \.policyGradient.maxTokens, .trajectory, "tokens of an output at most"),
        RecipeField(
            "policy_gradient.max_prompt_tokens", \.policyGradient.maxPromptTokens, .impossible,
            "tokens of a prompt at most; prompts with more are left out"),
        RecipeField(
            "policy_gradient.rollout_device", \.policyGradient.rolloutDevice, .trajectory,
            "where outputs are drawn: cpu, or the GPU of training.device; null: training.device, and the CPU with a note where "
                + "the GPU's decoder does not serve the policy"),
        RecipeField(
            "policy_gradient.epochs", \.policyGradient.epochs, .impossible,
            "times that the policy learns from a rollout"),
        RecipeField(
            "policy_gradient.minibatches", \.policyGradient.minibatches, .impossible,
            "optimiser steps of each of these times"),
        RecipeField(
            "policy_gradient.micro_batch_tokens", \.policyGradient.microBatchTokens, .trajectory,
            "tokens that one forward and backward pass takes at most"),
        RecipeField(
            "policy_gradient.kl", \.policyGradient.kl, .trajectory,
            "factor of the KL divergence from the reference: in the reward for rloo, reinforce and ppo, in the loss for grpo; "
                + "dpo's beta"),
        RecipeField(
            "policy_gradient.clip", \.policyGradient.clip, .trajectory,
            "how far a ratio of new to old probability falls below 1 before it is clipped"),
        RecipeField(
            "policy_gradient.clip_high", \.policyGradient.clipHigh, .trajectory,
            "how far it rises above 1; null: as far as it falls"),
        RecipeField(
            "policy_gradient.log_probabilities", \.policyGradient.logProbabilities, .trajectory,
            "whose log-probabilities ratios compare: the trainer's, or the engine's, which before an update are those of the "
                + "rollout to the last bit and cost one more pass in each later update"),
        RecipeField(
            "policy_gradient.divide_by_deviation", \.policyGradient.divideByDeviation, .trajectory,
            "grpo: divide by the group's standard deviation; false: Dr. GRPO"),
        RecipeField(
            "policy_gradient.average", \.policyGradient.average, .trajectory,
            "grpo: mean over each output's tokens, over all tokens, or over max_tokens (Dr. GRPO)"),
        RecipeField(
            "policy_gradient.incomplete_penalty", \.policyGradient.incompletePenalty, .trajectory,
            "subtracted from the reward of outputs that max_tokens cut"),
        RecipeField(
            "policy_gradient.normalization_prompts", \.policyGradient.normalizationPrompts, .trajectory,
            "prompts on whose outputs of the initial policy rewards get mean 0 and deviation 1; 0: rewards as they are"),
        RecipeField(
            "policy_gradient.normalization_samples", \.policyGradient.normalizationSamples, .trajectory,
            "outputs of each of them"),
        RecipeField(
            "policy_gradient.reward_scale_factor", \.policyGradient.rewardScaleFactor, .trajectory,
            "multiplies the rewards of a share of the prompts, before normalisation"),
        RecipeField(
            "policy_gradient.reward_scale_share", \.policyGradient.rewardScaleShare, .trajectory, "that share"),
        RecipeField(
            "policy_gradient.reward_scale_about", \.policyGradient.rewardScaleAbout, .trajectory,
            "what those rewards shrink towards: zero, or the mean of their prompt's outputs"),
        RecipeField(
            "policy_gradient.zero_variance", \.policyGradient.zeroVariance, .trajectory,
            "groups whose rewards are all equal: keep, drop, or resample with other prompts"),
        RecipeField(
            "policy_gradient.allocation", \.policyGradient.allocation, .trajectory,
            "uniform, or variance: half of the outputs evenly, half where the first ones' rewards differed"),
        RecipeField(
            "policy_gradient.evaluation_samples", \.policyGradient.evaluationSamples, .none,
            "outputs of each held-out prompt in an evaluation"),
        RecipeField(
            "policy_gradient.discount", \.policyGradient.discount, .trajectory, "ppo: worth of a reward a token later"),
        RecipeField(
            "policy_gradient.lambda", \.policyGradient.lambda, .trajectory,
            "ppo: lambda of generalised advantage estimation"),
        RecipeField(
            "policy_gradient.value_weight", \.policyGradient.valueWeight, .trajectory, "ppo: factor of the value loss"),
        RecipeField(
            "policy_gradient.value_clip", \.policyGradient.valueClip, .trajectory,
            "ppo: how far a value moves in a rollout's updates before it is clipped"),
    ]

    func checkPolicyGradient(_ checks: inout RecipeChecks) {
        let p = policyGradient
        guard resolvedTask.isPolicyGradient || resolvedTask == .dpo else {
            for key in changedKeys(of: "policy_gradient") {
                checks.add(key, "nothing, since the task is not rloo, grpo, reinforce, ppo or dpo", "a value")
            }
            return
        }
        func key(_ name: String) -> String { "policy_gradient.\(name)" }
        checks.require(key("prompts_per_rollout"), p.promptsPerRollout, in: 1...(1 << 20))
        checks.require(key("samples"), p.samples, in: 1...4096)
        checks.require(key("max_tokens"), p.maxTokens, in: 1...(1 << 20))
        checks.require(key("max_prompt_tokens"), p.maxPromptTokens, in: 1...(1 << 20))
        checks.require(key("epochs"), p.epochs, in: 1...1024)
        checks.require(key("minibatches"), p.minibatches, in: 1...1024)
        checks.require(key("micro_batch_tokens"), p.microBatchTokens, in: 1...(1 << 30))
        checks.require(key("normalization_prompts"), p.normalizationPrompts, in: 0...(1 << 20))
        checks.require(key("normalization_samples"), p.normalizationSamples, in: 2...4096)
        checks.require(key("evaluation_samples"), p.evaluationSamples, in: 1...4096)
        for (name, value) in [
            ("kl", p.kl), ("incomplete_penalty", p.incompletePenalty), ("value_weight", p.valueWeight),
        ] { checks.require(key(name), value, "a number of at least 0") { $0 >= 0 } }
        for (name, value) in [("clip_high", p.clipHigh ?? 1), ("value_clip", p.valueClip)] {
            checks.require(key(name), value, "a number above 0") { $0 > 0 }
        }
        checks.require(key("clip"), p.clip, "a number above 0 and at most 1") { $0 > 0 && $0 <= 1 }
        for (name, value) in [
            ("discount", p.discount), ("lambda", p.lambda), ("reward_scale_share", p.rewardScaleShare),
        ] { checks.require(key(name), value, "a number from 0 to 1") { $0 >= 0 && $0 <= 1 } }
        checks.require(key("validation_fraction"), p.validationFraction, "a number from 0 to below 1") {
            $0 >= 0 && $0 < 1
        }
        if let device = p.rolloutDevice, device != .cpu, device != training.device {
            checks.add(key("rollout_device"), "cpu or training.device (\(training.device))", "\(device)")
        }
        if p.rolloutDevice.map({ $0 != .cpu }) == true, p.logProbabilities == .engine {
            checks.add(key("log_probabilities"), "trainer, where outputs are drawn on a GPU", "engine")
        }
        if model.from == nil { checks.add("model.from", "a model to start from", "none") }
        if resolvedTask == .dpo {
            if p.pairs.isEmpty { checks.add(key("pairs"), "files of preference pairs", "none") }
            if !p.prompts.isEmpty { checks.add(key("prompts"), "pairs, since dpo draws no outputs", "prompts") }
            return
        }
        if p.prompts.isEmpty { checks.add(key("prompts"), "files of prompts", "none") }
        if !p.pairs.isEmpty { checks.add(key("pairs"), "prompts: only dpo learns from pairs", "pairs") }
        if p.reward.isEmpty { checks.add(key("reward"), "at least one reward", "none") }
        if p.minibatches > p.promptsPerRollout {
            checks.add(
                key("minibatches"), "at most the \(p.promptsPerRollout) prompts of a rollout", "\(p.minibatches)")
        }
        if [.rloo, .grpo].contains(resolvedTask), p.samples < 2 {
            checks.add(key("samples"), "at least 2 outputs of a prompt, which are held against each other", "1")
        }
        if p.allocation == .variance, p.samples < 4 {
            checks.add(key("samples"), "at least 4 outputs of a prompt to allocate by variance", "\(p.samples)")
        }
        if p.zeroVariance != .keep, p.samples < 2 {
            checks.add(key("zero_variance"), "keep, since a single output has no variance", p.zeroVariance.rawValue)
        }
    }
}

/// Whose log-probabilities ratios compare.
public enum PolicyLogProbabilities: String, Sendable, Hashable, CaseIterable {
    /// The trainer's, before and after: ratios begin at 1 whatever the engine's arithmetic.
    case trainer
    /// The engine's, when the outputs were drawn and now: batch-invariant kernels for both.
    case engine
}

/// What GRPO's losses of tokens are averaged over.
public enum PolicyAverage: String, Sendable, Hashable, CaseIterable {
    /// Over each output's tokens, then over outputs (GRPO as published).
    case sequence
    /// Over the tokens of all outputs (DAPO).
    case token
    /// Over `max_tokens`, whatever an output's length, then over outputs (Dr. GRPO).
    case constant
}

/// What the rewards of a share of the prompts shrink towards.
public enum RewardScaleCentre: String, Sendable, Hashable, CaseIterable {
    /// 0: the rewards are multiplied, as in the paper's perfectly accurate model of low variance.
    case zero
    /// The mean of the rewards of the prompt's outputs: differences between prompts stay.
    case promptMean = "prompt_mean"
}

/// What becomes of groups whose rewards are all equal.
public enum ZeroVarianceGroups: String, Sendable, Hashable, CaseIterable {
    /// They are part of the step (the KL term may still move them).
    case keep
    /// They are left out of the step's means.
    case drop
    /// Others are drawn in their place, from the next prompts.
    case resample
}

/// How outputs are shared among prompts.
public enum RolloutAllocation: String, Sendable, Hashable, CaseIterable {
    /// As many of each.
    case uniform
    /// Half evenly, half in proportion to the deviation of the rewards that the first ones got.
    case variance
}

extension RecipeTask {
    /// Whether outputs are drawn and rewarded.
    public var isPolicyGradient: Bool { [.rloo, .grpo, .reinforce, .ppo].contains(self) }
}
