import ApusTeaching
import ApusTensor
import ApusTraining
import ArgumentParser

/// `apus reproduce`: published experiments at a size that runs here.
struct Reproduce: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Published experiments, at a size that runs here.", subcommands: [ReproduceRewardTeaching.self])
}

/// `apus reproduce reward-teaching`: what makes a reward model a good teacher.
struct ReproduceRewardTeaching: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "reward-teaching",
        abstract: "What makes a reward model a good teacher (arXiv 2503.15477), with a small policy.",
        discussion: """
            Pretrains a small policy on books, fine-tunes it on human answers, trains reward models from on-policy and \
            off-policy pairs in several shares, measures their variance and accuracy, and has the policy learn from each of \
            them, from a perfectly accurate reward of low variance and from the ground truth. Stopped at any moment, the same \
            command goes on where it stopped; complete stages are kept.

            EXAMPLES:
              apus reproduce reward-teaching --quick
              apus reproduce reward-teaching --books books.txt.zst --preferences a.jsonl --preferences b.jsonl.zst
              apus reproduce reward-teaching --policy SmolLM2-135M-Instruct.gguf --device cuda --preferences a.jsonl
            """)

    @Option(parsing: .upToNextOption, help: "Text to pretrain on.", completion: .file())
    var books = ["Examples/books/train.txt.zst"]
    @Option(parsing: .upToNextOption, help: "Human preference pairs, JSON Lines.", completion: .file())
    var preferences = ["Examples/preferences/preferences.jsonl.zst"]
    @Option(
        name: .customLong("ground-truth"), parsing: .upToNextOption,
        help: "The fixed reward, in place of the built-in one.")
    var groundTruth: [String] = []
    @Option(
        help: "A model as the policy, a GGUF file or a Hugging Face folder, in place of a small one that is made.",
        completion: .file())
    var policy: String?
    @Option(help: "Where everything is trained, drawn and scored: cpu, cuda or cuda:N.") var device = "cpu"
    @Option(help: "The folder of everything.") var output = "runs/reward-teaching"
    @Flag(help: "Small sizes: some minutes, rough figures.") var quick = false
    @Option(help: "Steps of each policy gradient.") var steps: Int?
    @Option(help: "Seeds of the policy gradient.") var seeds: Int?
    @Option(help: "The policy gradient's learning rate.") var learningRate: Double?
    @Option(help: "Tokens to pretrain on.") var pretrainingTokens: Int?
    @Option(help: "Preference pairs of each reward model.") var pairs: Int?
    @Option(name: .shortAndLong, help: "Threads; all usable cores by default.") var threads: Int?

    func validate() throws {
        for (name, value) in [
            ("steps", steps), ("seeds", seeds), ("pretraining-tokens", pretrainingTokens), ("pairs", pairs),
            ("threads", threads),
        ] {
            if let value, value < 1 { throw ValidationError("--\(name): expected at least 1, found \(value)") }
        }
        if Device(device) == nil {
            throw ValidationError("--device: expected cpu, cuda or cuda:N, found \(device)")
        }
        if let learningRate, !(learningRate > 0 && learningRate.isFinite) {
            throw ValidationError("--learning-rate: expected a number > 0, found \(learningRate)")
        }
    }

    func run() async throws {
        var plan =
            quick
            ? ReproductionPlan.quick(books: books, preferences: preferences)
            : ReproductionPlan(books: books, preferences: preferences)
        if let policy { plan.take(policy: policy) }
        plan.device = Device(device) ?? .cpu
        if !groundTruth.isEmpty { plan.groundTruth = groundTruth }
        if let steps {
            plan.steps = steps
            plan.evaluateEvery = max(1, steps / 4)
        }
        if let seeds { plan.seeds = Array(0..<seeds) }
        if let learningRate { plan.learningRate = learningRate }
        if let pretrainingTokens { plan.pretrainingTokens = pretrainingTokens }
        if let pairs { plan.pairs = pairs }
        Interrupt.listen()
        let display = ReproductionDisplay()
        do {
            let reproduction = try RewardTeachingReproduction(
                plan, folder: output, on: CPUBackend(threads: threads), shouldStop: { Interrupt.isPending }
            ) { display.show($0) }
            let (result, report) = try await reproduction.run()
            display.end()
            try Terminal.out("\(result.markdown)\nReport: \(report)\n")
        } catch is CancellationError {
            display.end()
            Terminal.error("interrupted; the same command goes on from here\n")
            throw ExitCode(130)
        }
    }
}

/// Shows stages on standard error: one line each, with a bar on a terminal.
private final class ReproductionDisplay {
    private var line: ProgressLine?
    private var last = ""
    private let start = ContinuousClock.now

    func show(_ progress: RewardTeachingReproduction.Progress) {
        switch progress {
        case .stage(let name):
            end()
            if !Terminal.errorIsTerminal {
                Terminal.error("\((ContinuousClock.now - start).components.seconds) s: \(name)\n")
            }
            line = ProgressLine(label: name)
        case .part(let share, let figure):
            line?.update(share)
            last = figure
        case .text(let text):
            end()
            Terminal.error(text)
        }
    }

    func end() {
        line?.end()
        if line != nil, !last.isEmpty { Terminal.error("  \(last)\n") }
        line = nil
        last = ""
    }
}
