/// What a run learns.
public enum RecipeTask: String, Sendable, Hashable, CaseIterable {
    /// To predict text.
    case pretrain
    /// To give the answers of conversations.
    case sft
    /// To score answers, from preferences.
    case reward
    /// Policy gradients, REINFORCE with the mean of a prompt's other samples as baseline.
    case rloo
    /// Policy gradients, advantages within a prompt's samples.
    case grpo
    /// Policy gradients, REINFORCE with a running baseline.
    case reinforce
    /// Policy gradients, with a learnt value of states.
    case ppo
    /// From preferences, without a reward model.
    case dpo

    /// Whether it is learnt by cross-entropy alone.
    public var isCrossEntropy: Bool { self == .pretrain || self == .sft }
}

extension Recipe {
    /// The task: `sft` where there are conversations, else `pretrain`, unless given.
    public var resolvedTask: RecipeTask { task ?? (data.chat.isEmpty ? .pretrain : .sft) }
}
