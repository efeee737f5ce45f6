import ApusTraining

/// The tasks of recipes that learn from rewards and preferences.
public enum TeachingTasks {
    /// What turns a recipe of the task into data and an objective; nil for the tasks that need no rewards.
    public static func task(_ task: RecipeTask) -> (any TrainingTask)? {
        switch task {
        case .pretrain, .sft: nil
        case .reward: RewardTask()
        case .rloo, .grpo, .reinforce, .ppo: PolicyGradientTask(task)
        case .dpo: DirectPreferenceTask()
        }
    }
}
