import ArgumentParser

/// `apus reward`: reward models as teachers.
struct Reward: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Reward models and how well they teach.", subcommands: [RewardEvaluate.self, RewardTheory.self])
}
