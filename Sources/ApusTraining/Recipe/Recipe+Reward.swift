extension Recipe {
    /// What a reward model learns from: the task `reward`.
    public struct Reward: Sendable, Equatable {
        /// Files of preference pairs whose answers the policy gave.
        public var onPolicy: [String] = []
        /// Files of preference pairs whose answers others gave.
        public var offPolicy: [String] = []
        /// The share of on-policy pairs in the mix; nil: all pairs of both.
        public var onPolicyShare: Double?
        /// Pairs of the mix; nil: as many as there are.
        public var pairs: Int?
        /// Times that each pair is learnt from, where training.steps does not say.
        public var epochs = 1
        /// Factor on the penalty (r_chosen + r_rejected)^2.
        public var centering = 0.01
        /// Files of pairs that are held out.
        public var validation: [String] = []
        /// The share of the mix that is held out where there are no such files.
        public var validationFraction = 0.05

        /// No pairs.
        public init() {}
    }

    static let rewardFields = [
        RecipeField(
            "reward.on_policy", \.reward.onPolicy, .trajectory,
            "JSON Lines of preference pairs whose answers the policy gave"),
        RecipeField(
            "reward.off_policy", \.reward.offPolicy, .trajectory,
            "JSON Lines of preference pairs whose answers others gave"),
        RecipeField(
            "reward.on_policy_share", \.reward.onPolicyShare, .trajectory,
            "share of on-policy pairs in the mix; null: all pairs of both"),
        RecipeField(
            "reward.pairs", \.reward.pairs, .trajectory,
            "pairs of the mix, held-out ones included; null: as many as there are"),
        RecipeField(
            "reward.epochs", \.reward.epochs, .trajectory,
            "times that each pair is learnt from, where training.steps is null"),
        RecipeField(
            "reward.centering", \.reward.centering, .trajectory,
            "factor on the penalty (r_chosen + r_rejected)^2, which keeps rewards near 0"),
        RecipeField("reward.validation", \.reward.validation, .trajectory, "JSON Lines of pairs that are held out"),
        RecipeField(
            "reward.validation_fraction", \.reward.validationFraction, .trajectory,
            "share of the mix that is held out where there are no such files"),
    ]

    func checkReward(_ checks: inout RecipeChecks) {
        checks.require("reward.pairs", reward.pairs, in: 1...(1 << 40))
        checks.require("reward.epochs", reward.epochs, in: 1...(1 << 20))
        checks.require("reward.centering", reward.centering, "a number of at least 0") { $0 >= 0 }
        checks.require("reward.validation_fraction", reward.validationFraction, "a number from 0 to below 1") {
            $0 >= 0 && $0 < 1
        }
        checks.require("reward.on_policy_share", reward.onPolicyShare ?? 0, "a number from 0 to 1") {
            $0 >= 0 && $0 <= 1
        }
        guard resolvedTask == .reward else {
            for key in changedKeys(of: "reward") {
                checks.add(key, "nothing, since the task is not reward", "a value")
            }
            return
        }
        if model.from == nil { checks.add("model.from", "a model to start from", "none") }
        if reward.onPolicy.isEmpty, reward.offPolicy.isEmpty {
            checks.add("reward.on_policy", "files of preference pairs here or in reward.off_policy", "none")
        }
        if let share = reward.onPolicyShare {
            if share > 0, reward.onPolicy.isEmpty {
                checks.add("reward.on_policy", "files for a share of \(share)", "none")
            }
            if share < 1, reward.offPolicy.isEmpty {
                checks.add("reward.off_policy", "files for a share of \(1 - share)", "none")
            }
        }
    }
}
