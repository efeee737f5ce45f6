import ArgumentParser

/// The command line.
@main
struct Apus: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "apus", abstract: "Train, teach and serve language models with hardware-efficient attention.",
        discussion: """
            Exit codes: 0 done, 1 the work failed (the reason is on standard error), 64 the command line is wrong, \
            130 interrupted.
            """,
        version: "0.1.0",
        subcommands: [
            Generate.self,
            Chat.self,
            Serve.self,
            DataCommand.self,
            Tokenize.self,
            SchemaCommand.self,
            Logits.self,
            Evaluate.self,
            Inspect.self,
            Convert.self,
            Quantize.self,
            Plan.self,
            Train.self,
            Compare.self,
            Reward.self,
            Reproduce.self,
            Bench.self,
            Check.self,
            Launch.self,
            Doctor.self,
        ])
}
