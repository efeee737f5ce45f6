import ApusEngine
import ApusModels
import ApusTeaching
import ApusTensor
import ApusText
import ArgumentParser

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

/// `apus reward evaluate`: which of several reward models will teach a policy best.
struct RewardEvaluate: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "evaluate",
        abstract: "Measure reward models as teachers of a policy: reward variance, accuracy, and a ranking.",
        discussion: """
            Draws outputs of the policy once (kept in a file, so that a later run reuses or continues them), has every reward \
            model score them, and writes the table, a report and JSON. Prompts are JSON Lines with prompt, messages or \
            question, preferences JSON Lines with prompt, chosen and rejected.

            A reward is a Hugging Face directory with a score head of one label, or a verifier: exact, number, \
            length:WORDS, pattern:EXPRESSION, process:COMMAND (JSON Lines on its standard input and output), or an \
            http:// address.

            EXAMPLES:
              apus reward evaluate --policy model.gguf --reward rm-a --reward rm-b --prompts prompts.jsonl
              apus reward evaluate --policy model.gguf --reward rm-a --reward length:50 --prompts prompts.jsonl \
            --ground-truth rm-strong --preferences pairs.jsonl --output report
            """)

    @Option(help: "The policy: a GGUF file or a Hugging Face directory.") var policy: String
    @Option(name: [.customLong("reward")], parsing: .upToNextOption, help: "Reward models and verifiers.")
    var rewards: [String]
    @Option(help: "Prompts, JSON Lines.", completion: .file()) var prompts: String
    @Option(help: "The reward that the others are held against.") var groundTruth: String?
    @Option(help: "Preference pairs, JSON Lines, for off-policy accuracy.", completion: .file()) var preferences:
        String?
    @Option(help: "Prompts to use at most.") var maxPrompts: Int?
    @Option(help: "Outputs of each prompt.") var outputs = 10
    @Option(help: "Tokens of an output at most.") var maxTokens = 128
    @Option(help: "Divides the policy's logits; on a GPU 1.") var temperature = 1.0
    @Option(help: "Where outputs are drawn and reward models score: cpu or cuda.") var device = ComputeDevice.cpu
    @Option(help: "Of the draws and the resamples.") var seed: UInt64 = 0
    @Option(help: "Resamples of prompts for the intervals.") var resamples = 1000
    @Option(help: "Folder of the report, the JSON and the outputs.") var output = "reward-evaluation"
    @Option(name: .shortAndLong, help: "Threads; all usable cores by default.") var threads: Int?

    func validate() throws {
        if rewards.isEmpty { throw ValidationError("--reward: expected at least one") }
        if outputs < 2 { throw ValidationError("--outputs: expected at least 2, found \(outputs)") }
        if maxTokens < 1 { throw ValidationError("--max-tokens: expected at least 1, found \(maxTokens)") }
        if resamples < 1 { throw ValidationError("--resamples: expected at least 1, found \(resamples)") }
        if let maxPrompts, maxPrompts < 1 { throw ValidationError("--max-prompts: expected at least 1") }
        if let threads, threads < 1 { throw ValidationError("--threads: expected at least 1, found \(threads)") }
        if !(temperature > 0 && temperature.isFinite) {
            throw ValidationError("--temperature: expected a number > 0, found \(temperature)")
        }
        if device != .cpu, temperature != 1 {
            throw ValidationError("--temperature: expected 1 on a GPU, found \(temperature)")
        }
    }

    func run() async throws {
        var prompts = try RewardPrompt.read(prompts)
        if let maxPrompts { prompts = Array(prompts.prefix(maxPrompts)) }
        let pairs = try preferences.map { try PreferencePair.read($0) }
        let backend = CPUBackend(threads: threads)
        // Every reward is opened before the policy draws: a wrong path costs no time.
        let operations =
            device == .cpu ? nil : DifferentiableOperations(on: try CUDABackend(), compute: .bf16)
        func reward(_ text: String) throws -> any RewardFunction {
            try RewardSpecification.reward(text, backend: backend, operations: operations)
        }
        let rewards = try rewards.map { try reward($0) }
        let truth = try groundTruth.map { try reward($0) }
        try FileManager.default.createDirectory(atPath: output, withIntermediateDirectories: true)
        let drawn = try await draw(prompts, backend, operations)
        let values = try rewards.map { try score($0, prompts, drawn) }
        let truthValues = try truth.map { try score($0, prompts, drawn) }
        let margins = try pairs.map { pairs in try rewards.map { try Self.margins($0, pairs) } }
        let evaluation = try RewardEvaluation(
            policy: policy, prompts: prompts, outputs: prompts.indices.map { drawn.texts($0) },
            rewards: zip(rewards, values).map { ($0.name, $1) }, groundTruth: truthValues, preferences: margins,
            resamples: resamples, seed: seed)
        for (name, text) in [
            ("evaluation.json", evaluation.json.serialized(.pretty) + "\n"), ("evaluation.html", evaluation.html),
        ] {
            let file = try AtomicFile(path: "\(output)/\(name)")
            try file.write(Array(text.utf8))
            try file.publish()
        }
        try Terminal.out("\(evaluation.table)\n\(evaluation.reading)\nReport: \(output)/evaluation.html\n")
    }

    private func draw(
        _ prompts: [RewardPrompt], _ backend: CPUBackend, _ operations: DifferentiableOperations?
    ) async throws -> PolicyOutputs {
        var plan = SamplingPlan()
        plan.outputs = outputs
        plan.maxTokens = maxTokens
        plan.temperature = temperature
        plan.seed = seed
        let line = ProgressLine(label: "drawing outputs")
        defer { line.end() }
        let store = "\(output)/outputs.jsonl"
        let drawn: PolicyOutputs
        if let operations {
            drawn = try GPUPolicySampler(
                Checkpoints.open(policy), name: policy, prompts: prompts, plan: plan, on: operations
            ).outputs(store: store) { line.update(Double($0) / Double($1)) }
        } else {
            let engine = try Engine(try LanguageModel.load(path: policy, backend: backend))
            defer { engine.shutdown() }
            drawn = try await PolicySampler(engine: engine, name: policy, plan: plan).outputs(
                of: prompts, store: store
            ) { line.update(Double($0) / Double($1)) }
        }
        if drawn.drawnTokens > 0 {
            let rate = Double(drawn.drawnTokens) / drawn.seconds
            Terminal.error("\(drawn.drawnTokens) tokens drawn, \(fixed(rate, 0)) tokens/s\n")
        }
        return drawn
    }

    private func score(
        _ reward: any RewardFunction, _ prompts: [RewardPrompt], _ drawn: PolicyOutputs
    ) throws -> [[Double]] {
        let line = ProgressLine(label: "scoring by \(reward.name)")
        defer { line.end() }
        return try Self.rewards(
            prompts.indices.map { RewardGroup(index: $0, prompt: prompts[$0], outputs: drawn.texts($0)) }, by: reward,
            line)
    }

    /// Rewards of groups, a block at a time.
    private static func rewards(
        _ groups: [RewardGroup], by reward: any RewardFunction, _ line: ProgressLine
    ) throws -> [[Double]] {
        let block = 64
        return try stride(from: 0, to: groups.count, by: block).flatMap { first in
            line.update(Double(first) / Double(groups.count))
            return try reward.checkedRewards(of: Array(groups[first..<min(first + block, groups.count)]))
        }
    }

    private static func margins(_ reward: any RewardFunction, _ pairs: [PreferencePair]) throws -> [Double] {
        let line = ProgressLine(label: "preferences by \(reward.name)")
        defer { line.end() }
        return try rewards(
            pairs.enumerated().map { RewardGroup(index: $0, prompt: $1.prompt, outputs: [$1.chosen, $1.rejected]) },
            by: reward, line
        ).map { $0[0] - $0[1] }
    }
}
