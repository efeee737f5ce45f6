import ArgumentParser

/// `apus plan`: what hardware and parallelism a model wants.
struct Plan: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Plan memory, parallelism, time and arithmetic intensity.",
        subcommands: [PlanAttention.self, PlanServe.self, PlanTrain.self])
}
