import ArgumentParser

/// The command line.
@main
struct Apus: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "apus", abstract: "Train, teach and serve language models with hardware-efficient attention.",
        subcommands: [Inspect.self, Tokenize.self])
}
