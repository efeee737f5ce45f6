import ArgumentParser

/// `apus data`: what models learn from.
struct DataCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "data", abstract: "Prepare text for training.", subcommands: [DataPrepare.self])
}
