import ApusEngine
import ApusModels
import ApusReport
import ApusTensor
import ApusText
import ApusTraining

/// The experiments of "What Makes a Reward Model a Good Teacher?" (Razin et al. 2025, arXiv 2503.15477) with a policy that is
/// small enough for a processor: reward models from on-policy and off-policy pairs, their variance and accuracy, and what
/// policy gradients learn from them.
///
/// Everything stands in one folder; a stage that is complete is not made again.
public struct RewardTeachingReproduction {
    /// How far it is.
    public enum Progress: Sendable {
        /// A stage begins.
        case stage(String)
        /// A part of the stage is done, from 0 to 1, with a figure to show.
        case part(Double, String)
        /// Something to read: a table.
        case text(String)
    }

    /// The sizes.
    public let plan: ReproductionPlan
    private let folder: ReproductionFolder
    private let recipes: ReproductionRecipes
    private let backend: CPUBackend
    /// A GPU's; nil on the CPU.
    private let operations: DifferentiableOperations?
    private let shouldStop: @Sendable () -> Bool
    private let progress: (Progress) -> Void

    /// Opens or makes a reproduction's folder.
    /// - Parameters:
    ///   - shouldStop: asked after every training step; what is done so far is kept.
    ///   - progress: told what goes on.
    /// - Throws: ``ReproductionError/otherPlan(folder:key:expected:found:)``, file errors; `CUDAError` without its GPU.
    public init(
        _ plan: ReproductionPlan, folder path: String, on backend: CPUBackend = .shared,
        shouldStop: @escaping @Sendable () -> Bool = { false }, progress: @escaping (Progress) -> Void = { _ in }
    ) throws {
        self.plan = plan
        folder = try ReproductionFolder(path, plan: plan)
        recipes = ReproductionRecipes(plan: plan, folder: path)
        self.backend = backend
        if case .cuda(let ordinal) = plan.device {
            operations = DifferentiableOperations(on: try CUDABackend(ordinal: ordinal), compute: .bf16)
        } else {
            operations = nil
        }
        self.shouldStop = shouldStop
        self.progress = progress
    }

    /// Makes everything that is not there yet, and writes `reproduction.html` and `reproduction.json`.
    /// - Returns: what was found, and the report's path.
    /// - Throws: `CancellationError` where it was stopped; what stages throw.
    public func run() async throws -> (result: ReproductionResult, report: String) {
        try folder.write("template.jinja", ReproductionRecipes.template)
        if let policy = plan.policy {
            try expand(policy)
        } else {
            try await train("pretraining on books", "base", try recipes.pretraining(output: "base"))
        }
        let pairs = try humanPairs()
        try await makePolicies(pairs)
        let groundTruth = try await makeGroundTruth(pairs)
        let truth = try makeReward(groundTruth)
        let pairCount = try await makePairs(pairs, truth)
        let teachers = try await makeTeachers(pairCount, groundTruth)
        var evaluations: [(policy: String, evaluation: RewardEvaluation)] = []
        for policy in policies {
            evaluations.append((policy, try await measure(policy, teachers, truth)))
            progress(.text("\(evaluations.last!.evaluation.table)\n"))
        }
        var result = ReproductionResult(
            teachers: teachers.map(\.name), isOfPaper: teachers.map(\.isOfPaper), evaluations: evaluations, runs: [],
            setting: setting(pairCount))
        for (estimator, seeds) in plan.estimators where seeds > 0 {
            for teacher in teachers.indices {
                result.runs.append(
                    try await teach(policies[0], teachers, teacher, estimator, seeds: Array(plan.seeds.prefix(seeds))))
                try write(result)
            }
        }
        for policy in policies.dropFirst() {
            for share in plan.secondShares {
                guard let teacher = plan.shares.firstIndex(of: share) else { continue }
                result.runs.append(
                    try await teach(
                        policy, teachers, teacher, "rloo", seeds: Array(plan.seeds.prefix(plan.secondSeeds))))
                try write(result)
            }
        }
        return (result, try write(result))
    }

    /// The policies: the second answers in fewer words.
    private var policies: [String] { plan.secondShares.isEmpty ? ["policy"] : ["policy", "terse-policy"] }

    /// Words of an answer that the terse policy is fine-tuned on, at most.
    private static let terseWords = 12

    private func train(_ title: String, _ name: String, _ recipe: Recipe, keepsModel: Bool = true) async throws {
        progress(.stage(title))
        try await folder.run(name, recipe, keepsModel: keepsModel, on: backend, shouldStop: shouldStop) {
            event, steps in
            switch event {
            case .step(let step):
                progress(.part(Double(step.step) / Double(steps), "loss \(NumberText.fixed(step.loss, 3))"))
            case .evaluation(_, let evaluation):
                let shown = evaluation.metrics.first { $0.isShown } ?? evaluation.metrics[0]
                progress(.part(1, "\(shown.name) \(NumberText.fixed(shown.value, 3))"))
            default: break
            }
        }
    }

    private static let expanded = "given-policy"

    /// A GGUF file's model as a Hugging Face folder, once for all runs.
    private func expand(_ policy: String) throws {
        guard policy.hasSuffix(".gguf"), !folder.has(Self.expanded) else { return }
        progress(.stage("expanding \(policy)"))
        _ = try CheckpointConverter(Checkpoints.open(policy), format: .f32, backend: backend).writeHuggingFace(
            to: folder.file(Self.expanded))
    }

    /// The model of a run, or the policy that is given.
    private func model(_ name: String) throws -> String {
        guard let policy = plan.policy, name == policies[0] else { return try folder.model(name) }
        return policy.hasSuffix(".gguf") ? folder.file(Self.expanded) : policy
    }

    private func humanPairs() throws -> ReproductionPairs {
        let base = try Checkpoints.open(plan.policy == nil ? folder.model("base") : model(policies[0]))
        let given = plan.policy == nil ? nil : try base.chatTemplate()
        return try ReproductionPairs(
            plan,
            encoder: RewardEncoder(
                tokenizer: base.loadTokenizer(),
                chatTemplate: ChatTemplate(source: given ?? ReproductionRecipes.template)))
    }

    private func makePolicies(_ pairs: ReproductionPairs) async throws {
        let base = try plan.policy == nil ? folder.model("base") : model(policies[0])
        for policy in policies where plan.policy == nil || policy != policies[0] {
            let chosen = pairs.train.filter {
                policy == policies[0] || $0.chosen.split(whereSeparator: \.isWhitespace).count <= Self.terseWords
            }
            try folder.write("\(policy).jsonl", rows: chosen.map(\.json))
            try await train(
                "fine-tuning the \(policy) on \(chosen.count) answers", policy,
                try recipes.fineTuning(from: base, chat: "\(policy).jsonl", output: policy))
        }
    }

    /// Writes the pairs that reward models learn from.
    /// - Returns: how many each of them gets.
    private func makePairs(_ human: ReproductionPairs, _ truth: any RewardFunction) async throws -> Int {
        let prompts = ReproductionPairs.prompts(human.train)
        try folder.write("prompts.jsonl", rows: prompts.map { ["prompt": $0.json] })
        let measured = Array(ReproductionPairs.prompts(human.heldOut).prefix(plan.measuredPrompts))
        try folder.write("measured-prompts.jsonl", rows: measured.map { ["prompt": $0.json] })
        let offPolicy = try ReproductionPairs.labelled(human.train, by: truth)
        try folder.write("off-policy.jsonl", rows: offPolicy.map(\.json))
        try folder.write(
            "measured-off-policy.jsonl", rows: try ReproductionPairs.labelled(human.heldOut, by: truth).map(\.json))
        let asked = Array(prompts.prefix(plan.pairPrompts))
        let outputs = try await draw(
            asked, from: policies[0], samples: plan.pairSamples, store: "pair-outputs.jsonl",
            "drawing \(plan.pairSamples) outputs of \(asked.count) prompts")
        let onPolicy = try ReproductionPairs.amongOutputs(
            outputs, of: asked, by: truth, limit: plan.pairsPerPrompt, seed: UInt64(plan.seed))
        try folder.write("on-policy.jsonl", rows: onPolicy.map(\.json))
        return min(plan.pairs, onPolicy.count, offPolicy.count)
    }

    private func draw(
        _ prompts: [RewardPrompt], from policy: String, samples: Int, store: String, _ title: String
    ) async throws -> [[String]] {
        progress(.stage(title))
        var sampling = SamplingPlan()
        sampling.outputs = samples
        sampling.maxTokens = plan.outputTokens
        sampling.seed = UInt64(plan.seed)
        func report(_ done: Int, _ all: Int) throws {
            if shouldStop() { throw CancellationError() }
            progress(.part(Double(done) / Double(all), "\(done) prompts"))
        }
        let drawn: PolicyOutputs
        if let operations {
            drawn = try GPUPolicySampler(
                Checkpoints.open(model(policy)), name: policy, prompts: prompts, plan: sampling, on: operations
            ).outputs(store: folder.file(store), progress: report)
        } else {
            let engine = try Engine(try LanguageModel.load(path: try model(policy), backend: backend))
            defer { engine.shutdown() }
            drawn = try await PolicySampler(engine: engine, name: policy, plan: sampling).outputs(
                of: prompts, store: folder.file(store), progress: report)
        }
        return prompts.indices.map { drawn.texts($0) }
    }

    /// The sum of rewards as recipes name them.
    private func makeReward(_ names: [String]) throws -> any RewardFunction {
        InterruptibleReward(
            reward: try RewardSpecification.sum(names, backend: backend, operations: operations),
            shouldStop: shouldStop)
    }

    /// The name of the reward model from all human pairs in a plan's ground truth.
    private static let learned = "learned"

    /// The ground truth's rewards, a learnt one by its path.
    private func makeGroundTruth(_ human: ReproductionPairs) async throws -> [String] {
        guard plan.groundTruth.contains(where: { $0.hasSuffix(Self.learned) }) else { return plan.groundTruth }
        try folder.write("human.jsonl", rows: human.train.map(\.json))
        try await train(
            "ground truth from \(human.train.count) human pairs", "ground-truth",
            try recipes.groundTruth(
                pairs: human.train.count, from: try model(policies[0]), output: "ground-truth"))
        let path = try folder.model("ground-truth")
        return plan.groundTruth.map { text in
            text.hasSuffix(Self.learned) ? text.dropLast(Self.learned.count) + path : text
        }
    }

    /// Trains the reward models; the perfectly accurate ones of low variance and the ground truth follow them.
    private func makeTeachers(_ pairs: Int, _ truth: [String]) async throws -> [Teacher] {
        let policy = try model(policies[0])
        var teachers: [Teacher] = []
        for share in plan.shares {
            let percent = Int((share * 100).rounded())
            let key = "reward-\(percent)"
            try await train(
                "reward model from \(pairs) pairs, \(percent) % on-policy", key,
                try recipes.reward(share: share, pairs: pairs, from: policy, output: key))
            teachers.append(Teacher(name: "\(percent) % on-policy", key: key, rewards: [try folder.model(key)]))
        }
        return teachers + [
            Teacher(name: "perfect, half x 0.001", key: "perfect-half", rewards: truth, scale: 0.001),
            Teacher(
                name: "perfect, shrunk to prompt means", key: "perfect-shrunk", rewards: truth, scale: 0.001,
                scaledShare: 1, scalesAboutMean: true, isOfPaper: false),
            Teacher(name: "ground truth", key: "ground-truth", rewards: truth, isOfPaper: false),
        ]
    }

    /// Variance and accuracy of all teachers on a policy's outputs, before any policy gradient.
    private func measure(
        _ policy: String, _ teachers: [Teacher], _ truth: any RewardFunction
    ) async throws -> RewardEvaluation {
        let prompts = try RewardPrompt.read(folder.file("measured-prompts.jsonl"))
        let pairs = try PreferencePair.read(folder.file("measured-off-policy.jsonl"))
        let outputs = try await draw(
            prompts, from: policy, samples: plan.measuredSamples, store: "measured-\(policy).jsonl",
            "drawing \(plan.measuredSamples) outputs of \(prompts.count) held-out prompts from the \(policy)")
        func rewards(_ reward: any RewardFunction) throws -> [[Double]] {
            try ReproductionPairs.rewards(of: outputs, to: prompts, by: reward)
        }
        func margins(_ reward: any RewardFunction) throws -> [Double] {
            try ReproductionPairs.rewards(of: pairs, by: reward).map { $0[0] - $0[1] }
        }
        progress(.stage("scoring by \(teachers.count) rewards"))
        var values: [(name: String, values: [[Double]])] = []
        var differences: [[Double]] = []
        for (place, teacher) in teachers.enumerated() {
            progress(.part(Double(place) / Double(teachers.count), teacher.name))
            let reward = try makeReward(teacher.rewards)
            let shaping = RewardShaping(
                factor: teacher.scale, share: teacher.scaledShare,
                about: teacher.scalesAboutMean ? .promptMean : .zero, seed: UInt64(plan.seed))
            let shaped = try rewards(reward).enumerated().map { prompt, values in
                shaping.shaped(values, prompt: prompt, of: prompts.count)
            }
            values.append((teacher.name, shaped))
            differences.append(try margins(reward))
        }
        return try RewardEvaluation(
            policy: policy, prompts: prompts, outputs: outputs, rewards: values, groundTruth: try rewards(truth),
            preferences: differences, seed: UInt64(plan.seed))
    }

    /// Runs the policy gradient of one teacher with each seed.
    private func teach(
        _ policy: String, _ teachers: [Teacher], _ index: Int, _ estimator: String, seeds: [Int]
    ) async throws -> ReproductionResult.Runs {
        let teacher = teachers[index]
        var curves: [ReproductionResult.Curve] = []
        for seed in seeds {
            let name = "\(policy)-\(estimator)-\(teacher.key)-seed-\(seed)"
            let recipe = try recipes.policyGradient(
                estimator, teacher: teacher, groundTruth: teachers[teachers.count - 1].rewards, seed: seed,
                from: try model(policy), output: name)
            try await train(
                "\(estimator) of the \(policy) by \(teacher.name), seed \(seed)", name, recipe, keepsModel: false)
            let curve = try ReproductionResult.Curve(log: folder.file("\(name)/log.jsonl"), seed: seed)
            curves.append(curve)
        }
        return ReproductionResult.Runs(estimator: estimator, policy: policy, teacher: index, curves: curves)
    }

    private func setting(_ pairs: Int) -> [(name: String, value: String)] {
        [
            (
                "policy",
                plan.policy ?? "\(plan.layers) layers, width \(plan.hiddenSize), vocabulary \(plan.vocabulary)"
            ),
            ("ground truth", plan.groundTruth.joined(separator: " + ")), ("pairs a reward model", "\(pairs)"),
            ("measured", "\(plan.measuredPrompts) prompts x \(plan.measuredSamples) outputs"),
            ("policy gradient", "\(plan.steps) steps of \(plan.promptsPerStep) prompts x \(plan.samples) outputs"),
            ("seeds", plan.seeds.map(String.init).joined(separator: ", ")),
        ]
    }

    @discardableResult
    private func write(_ result: ReproductionResult) throws -> String {
        try folder.write("reproduction.json", result.json.serialized(.pretty) + "\n")
        try folder.write("reproduction.html", result.html)
        return folder.file("reproduction.html")
    }
}
