import ApusDistributed
import ApusTeaching
import ApusTensor
import ApusTraining
import ArgumentParser

/// `apus train`: a run from a recipe.
struct Train: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Train a language model or a reward model from a recipe.",
        discussion: """
            A recipe is a YAML file (docs/training.md lists its keys); arguments key=value hold over it. The run's folder \
            receives checkpoints in Hugging Face's layout, log.jsonl and TensorBoard's event files. Ctrl-C writes a \
            checkpoint and exits; --resume goes on from the newest one, with the same losses as an unbroken run. Started by \
            mpirun or srun, the ranks share every batch (docs/distributed.md).

            EXAMPLES:
              apus train Examples/recipes/gla.yaml
              apus train gla.yaml optimizer.learning_rate=3e-4 training.output=runs/slow
              apus train gla.yaml --resume
              mpirun -n 2 apus train gla.yaml --threads 1
              mpirun -n 4 apus train gla.yaml --threads 1 --tensor-parallel 2
              mpirun -n 8 apus train gla.yaml training.device=cuda
            """)

    @Argument(help: "The recipe.", completion: .file(extensions: ["yaml", "yml"])) var recipe: String
    @Argument(help: "Settings that hold over the recipe, as section.key=value.") var settings: [String] = []
    @Flag(help: "Go on from the newest checkpoint, if there is one.") var resume = false
    @Flag(help: "Remove the checkpoints of an earlier run in the same folder.") var restart = false
    @Option(help: "Threads; the cores this process may use by default.") var threads: Int?
    @Option(help: "Ranks that a model is cut over; the other ranks hold copies and share the batches.")
    var tensorParallel = 1

    func validate() throws {
        if tensorParallel < 1 {
            throw ValidationError("--tensor-parallel: expected at least 1, found \(tensorParallel)")
        }
        if resume && restart { throw ValidationError("expected --resume or --restart, found both") }
        if let threads, threads < 1 { throw ValidationError("--threads: expected at least 1, found \(threads)") }
    }

    func run() async throws {
        let gpu = try Ranks.gpu { try Recipe.read(recipe, overrides: settings) }
        try await Ranks.run(on: gpu?.stream) { try await train($0, gpu) }
    }

    private func train(_ job: DistributedJob, _ gpu: CUDABackend?) async throws {
        let recipe = try Recipe.read(recipe, overrides: settings)
        let isFirst = job.world.rank == 0
        let run = try prepare(recipe, job, gpu)
        run.trainer.whileOthersWait = { phase, work in
            try job.during(phase) {
                let result = try work()
                try job.world.barrier()
                return result
            }
        }
        if isFirst {
            try Terminal.out(introduction(run))
            for change in try run.changesSinceCheckpoint() {
                Terminal.error("changed since the checkpoint: \(change)\n")
            }
        }
        Interrupt.listen()
        var progress = isFirst ? try TrainingProgress(run) : nil
        do {
            defer { progress?.end() }
            try await run.run(shouldStop: { Interrupt.isPending }) { progress?.show($0) }
        }
        if Interrupt.isPending {
            Terminal.error("interrupted after step \(run.trainer.step); go on with --resume\n")
            throw ExitCode(130)
        }
    }

    /// The first rank prepares the run's folder before the others look at it.
    private func prepare(_ recipe: Recipe, _ job: DistributedJob, _ gpu: CUDABackend?) throws -> TrainingRun {
        let (world, isFirst) = (job.world, job.world.rank == 0)
        let ranks = try TrainingRanks(world, tensorParallel: tensorParallel)
        try job.agree(on: "the recipe", recipe.yaml)
        let bar = isFirst ? PreparationBar() : nil
        defer { bar?.end() }
        func make() throws -> TrainingRun {
            try job.during("preparing the run") {
                try TrainingRun(
                    recipe, start: resume ? .resume : restart ? .restart : .fresh,
                    task: TeachingTasks.task(recipe.resolvedTask), replicas: ranks.replicas, tensorParallel: ranks.cut,
                    on: CPUBackend(threads: threads), gpu: gpu
                ) { bar?.update($0) }
            }
        }
        if isFirst {
            let run = try make()
            try job.world.barrier()
            try job.agree(on: "the checkpoint to go on from", run.resumedFrom?.path ?? "none")
            return run
        }
        try job.world.barrier()
        let run = try make()
        try job.agree(on: "the checkpoint to go on from", run.resumedFrom?.path ?? "none")
        return run
    }

    private func introduction(_ run: TrainingRun) -> String {
        let parameters = fixed(Double(run.trainer.model.wholeParameterCount) / 1e6, 2)
        let name = run.recipe.model.from ?? run.recipe.model.attentionName
        var steps = "\(run.trainer.settings.steps) steps"
        if let replicas = run.trainer.replicas { steps += " by \(replicas.communicator.size) replicas" }
        if let ranks = run.trainer.model.ranks { steps += ", cut over \(ranks.communicator.size) ranks" }
        if run.recipe.resolvedTask.isCrossEntropy { steps += " of \(run.recipe.tokensPerStep) tokens" }
        var text =
            "\(name), \(parameters) M parameters, vocabulary \(run.trainer.model.configuration.vocabularySize); "
            + "\(run.summary); \(steps), \(run.recipe.training.compute.rawValue)\n"
        if let gpu = (run.trainer.model.operations.backend as? CUDABackend)?.gpu {
            text += "on \(gpu.name), \(run.recipe.training.device)\n"
        }
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
    private var pending = (steps: 0, tokens: 0, seconds: 0.0)

    init(_ run: TrainingRun) throws {
        recipe = run.recipe
        total = run.trainer.settings.steps
        let operations = run.trainer.model.operations
        let model = run.trainer.model
        let ranks = Double((run.trainer.replicas?.communicator.size ?? 1) * (model.ranks?.communicator.size ?? 1))
        line = StatusLine(
            isTerminal: Terminal.errorIsTerminal,
            operationsPerToken: 6 * Double(model.wholeParameterCount),
            peakFlops: try recipe.training.peakFlops
                ?? ranks * ProductRate.measure(on: operations.backend, compute: operations.compute)
        ) { Terminal.error($0) }
    }

    mutating func show(_ event: Trainer.Event) {
        switch event {
        case .step(let step):
            pending.steps += 1
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
                    steps: pending.steps, tokens: pending.tokens, seconds: pending.seconds,
                    metrics: step.metrics.filter(\.isShown)))
            pending = (0, 0, 0)
        case .evaluation(let step, let evaluation):
            let figures = evaluation.metrics.map { metric in
                "\(metric.name.map { $0 == "_" ? " " : "\($0)" }.joined()) \(fixed(metric.value, 4))"
            }
            line.note(
                "step \(step): validation \(figures.joined(separator: ", ")) over \(evaluation.count) \(evaluation.unit)"
            )
            if evaluation.metrics.contains(where: { $0.name == "reward_hacking" && $0.value == 1 }) {
                line.note(
                    "step \(step): warning: since the best ground truth the reward has risen while the ground truth has fallen; "
                        + "the policy learns what the reward gets wrong")
            }
        case .best(let step, let path): line.note("step \(step): the best so far, \(path)")
        case .ended(let step, let best):
            line.note("step \(step): ends here, since evaluations are no better than that of step \(best)")
        case .checkpoint(let step, let path): line.note("step \(step): wrote \(path)")
        }
    }

    mutating func end() { line.end() }
}
