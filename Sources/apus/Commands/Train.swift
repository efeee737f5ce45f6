import ApusTensor
import ApusTraining
import ArgumentParser

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// `apus train`: a run from a recipe.
struct Train: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Train a language model from a recipe.",
        discussion: """
            A recipe is a YAML file (docs/training.md lists its keys); arguments key=value hold over it. The run's folder \
            receives checkpoints in Hugging Face's layout, log.jsonl and TensorBoard's event files. Ctrl-C writes a \
            checkpoint and exits; --resume goes on from the newest one, with the same losses as an unbroken run.

            EXAMPLES:
              apus train Examples/recipes/gla.yaml
              apus train gla.yaml optimizer.learning_rate=3e-4 training.output=runs/slow
              apus train gla.yaml --resume
            """)

    @Argument(help: "The recipe.", completion: .file(extensions: ["yaml", "yml"])) var recipe: String
    @Argument(help: "Settings that hold over the recipe, as section.key=value.") var settings: [String] = []
    @Flag(help: "Go on from the newest checkpoint, if there is one.") var resume = false
    @Flag(help: "Remove the checkpoints of an earlier run in the same folder.") var restart = false
    @Option(help: "Threads; the cores this process may use by default.") var threads: Int?

    func validate() throws {
        if resume && restart { throw ValidationError("expected --resume or --restart, found both") }
        if let threads, threads < 1 { throw ValidationError("--threads: expected at least 1, found \(threads)") }
    }

    func run() throws {
        let recipe = try Recipe.read(recipe, overrides: settings)
        let bar = PreparationBar()
        let run: TrainingRun
        do {
            defer { bar.end() }
            run = try TrainingRun(
                recipe, start: resume ? .resume : restart ? .restart : .fresh, on: CPUBackend(threads: threads)
            ) { bar.update($0) }
        }
        try Terminal.out(introduction(run))
        for change in try run.changesSinceCheckpoint() {
            Terminal.error("changed since the checkpoint: \(change)\n")
        }
        Interrupt.listen()
        var progress = TrainingProgress(run)
        do {
            defer { progress.end() }
            try run.run(shouldStop: { Interrupt.isPending }) { progress.show($0) }
        }
        if Interrupt.isPending {
            Terminal.error("interrupted after step \(run.trainer.step); go on with --resume\n")
            throw ExitCode(130)
        }
    }

    private func introduction(_ run: TrainingRun) -> String {
        let parameters = fixed(Double(run.trainer.model.parameterCount) / 1e6, 2)
        let name = run.recipe.model.from ?? run.recipe.model.attentionName
        var text =
            "\(name), \(parameters) M parameters, vocabulary \(run.trainer.model.configuration.vocabularySize); "
            + "\(run.tokenCounts.train) tokens to train on, \(run.tokenCounts.validation) held out; "
            + "\(run.trainer.settings.steps) steps of \(run.recipe.tokensPerStep) tokens, \(run.recipe.training.compute.rawValue)\n"
        for note in run.notes { text += note + "\n" }
        if let entry = run.resumedFrom { text += "going on from \(entry.path)\n" }
        return text
    }
}

/// Shows a run as it goes: the status on one line of the terminal (a line at each entry of the log where standard error is
/// no terminal), evaluations and checkpoints on lines of their own.
struct TrainingProgress {
    private var line: StatusLine
    private let recipe: Recipe
    private let total: Int
    private var shown = ContinuousClock.now
    private var pending = (tokens: 0, seconds: 0.0)

    init(_ run: TrainingRun) {
        recipe = run.recipe
        total = run.trainer.settings.steps
        let operations = run.trainer.model.operations
        line = StatusLine(
            tokensPerStep: recipe.tokensPerStep, isTerminal: Terminal.errorIsTerminal,
            operationsPerToken: 6 * Double(run.trainer.model.parameterCount),
            peakFlops: recipe.training.peakFlops
                ?? ProductRate.measure(on: operations.backend, compute: operations.compute)
        ) { Terminal.error($0) }
    }

    mutating func show(_ event: Trainer.Event) {
        switch event {
        case .step(let step):
            pending.tokens += step.tokens
            pending.seconds += step.seconds
            let isDue =
                Terminal.errorIsTerminal
                ? ContinuousClock.now - shown > .milliseconds(200) : step.step % recipe.training.logEvery == 0
            guard isDue || step.step == total else { return }
            shown = .now
            line.update(
                StatusLine.Figures(
                    step: step.step, of: total, loss: step.loss, learningRate: step.learningRate,
                    tokens: pending.tokens, seconds: pending.seconds))
            pending = (0, 0)
        case .evaluation(let step, let loss, let tokens):
            line.note(
                "step \(step): validation loss \(fixed(loss, 4)), perplexity \(fixed(perplexity(loss), 2)) over \(tokens) tokens"
            )
        case .checkpoint(let step, let path): line.note("step \(step): wrote \(path)")
        }
    }

    mutating func end() { line.end() }

    private func perplexity(_ loss: Double) -> Double { exp(loss) }
}
