import ApusTensor
import ApusTraining
import ArgumentParser

/// `apus compare`: the attention variants side by side.
struct Compare: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Train the attention variants of a recipe and compare them.",
        discussion: """
            Trains each variant of compare.attention with each seed of compare.seeds, all on the same data and, by the width \
            of the feed-forward, with the same number of parameters. Writes comparison.html and comparison.json into the \
            output folder after each run. Stop it at any time: the same command goes on where it stopped.

            EXAMPLES:
              apus compare Examples/recipes/compare.yaml
              apus compare compare.yaml compare.attention=[gqa,gta,gla] training.tokens=1e6
            """)

    @Argument(help: "The recipe.", completion: .file(extensions: ["yaml", "yml"])) var recipe: String
    @Argument(help: "Settings that hold over the recipe, as section.key=value.") var settings: [String] = []
    @Option(help: "Threads; the cores this process may use by default.") var threads: Int?

    func validate() throws {
        if let threads, threads < 1 { throw ValidationError("--threads: expected at least 1, found \(threads)") }
    }

    func run() async throws {
        let recipe = try Recipe.read(recipe, overrides: settings)
        let bar = PreparationBar()
        let comparison: Comparison
        do {
            defer { bar.end() }
            comparison = try Comparison(recipe) { bar.update($0) }
        }
        let backend = CPUBackend(threads: threads)
        Interrupt.listen()
        for (number, job) in comparison.jobs.enumerated() {
            let name = "\(job.variant), seed \(job.seed) (\(number + 1) of \(comparison.jobs.count))"
            if comparison.isFinished(job) {
                Terminal.error("\(name): done before\n")
                continue
            }
            let parameters = fixed(Double(job.configuration.parameterCount) / 1e6, 3)
            Terminal.error("\(name): \(parameters) M parameters, \(job.recipe.resolvedSteps) steps\n")
            let run = try comparison.start(job, on: backend)
            var progress = try TrainingProgress(run)
            do {
                defer { progress.end() }
                try await run.run(shouldStop: { Interrupt.isPending }) { progress.show($0) }
            }
            if Interrupt.isPending {
                Terminal.error("interrupted; the same command goes on from here\n")
                throw ExitCode(130)
            }
            _ = try comparison.writeReport()
        }
        try Terminal.out("\(try comparison.writeReport())\n")
    }
}
