import ApusReport
import ApusModels
import ApusTensor
import ApusText

/// Trains attention variants at the same number of parameters, on the same data, with the same seeds: what `apus compare`
/// does.
///
/// Each run stands in a folder of its own under the recipe's output and is resumed where it stopped; a finished one is not
/// trained again.
public struct Comparison {
    /// One training run of the comparison.
    public struct Job: Sendable {
        /// The variant's name in the paper, with its number of states: GLA-2.
        public let variant: String
        /// The seed.
        public let seed: Int
        /// The recipe, sizes matched.
        public let recipe: Recipe
        /// The model.
        public let configuration: DecoderConfiguration
    }

    /// The recipe of the whole.
    public let recipe: Recipe
    /// The runs, variant after variant.
    public let jobs: [Job]

    /// Plans the runs, and prepares the data where the recipe names text.
    /// - Parameter progress: told how far the preparation is.
    /// - Throws: errors of recipes, configurations and data.
    public init(_ recipe: Recipe, progress: (DataPreparation.Progress) -> Void = { _ in }) throws {
        guard recipe.resolvedTask == .pretrain, recipe.model.from == nil else { throw ComparisonError.notFromScratch }
        self.recipe = recipe
        let folder = recipe.training.output
        let dataFolder = recipe.data.path ?? "\(folder)/data"
        if recipe.data.path == nil { _ = try DataPreparation(recipe.data, folder: dataFolder).run(progress) }
        let vocabulary = try TokenManifest(folder: dataFolder).vocabularySize
        func configuration(_ model: Recipe.Model) throws -> DecoderConfiguration {
            try model.decoderConfiguration(vocabulary: vocabulary, maxPositions: recipe.data.sequenceLength)
        }
        var jobs: [Job] = []
        var parameters: Int?
        for attention in recipe.compare.attention {
            var model = recipe.model
            model.attention = attention
            var found = try configuration(model)
            if let parameters, recipe.compare.matchParameters {
                model.feedForwardWidth = Self.matchedWidth(found, parameters: parameters)
                found = try configuration(model)
            }
            parameters = parameters ?? found.parameterCount
            for seed in recipe.compare.seeds {
                var run = recipe
                run.model = model
                run.data.path = dataFolder
                run.data.text = []
                run.data.tokenizer = nil
                run.data.trainVocabulary = nil
                run.training.seed = seed
                run.training.output = "\(folder)/\(attention.rawValue)-seed-\(seed)"
                jobs.append(Job(variant: model.attentionName, seed: seed, recipe: run, configuration: found))
            }
        }
        self.jobs = jobs
    }

    /// The feed-forward width, a multiple of 8, whose model comes nearest to a number of parameters.
    static func matchedWidth(_ configuration: DecoderConfiguration, parameters: Int) -> Int {
        let each = configuration.layerCount * 3 * configuration.hiddenSize
        let others = configuration.parameterCount - each * configuration.feedForwardWidth
        return max(8, (parameters - others + 4 * each) / (8 * each) * 8)
    }

    /// Whether a job has made all its steps.
    public func isFinished(_ job: Job) -> Bool {
        CheckpointStore.entries(in: "\(job.recipe.training.output)/checkpoints").last?.step == job.recipe.resolvedSteps
    }

    /// Prepares a job's run: from its newest checkpoint, or from its start.
    public func start(_ job: Job, on backend: CPUBackend = .shared) throws -> TrainingRun {
        try TrainingRun(job.recipe, start: .resume, on: backend)
    }

    /// The report of what the runs' logs hold so far; runs without an evaluation are left out.
    public func report() throws -> ComparisonReport {
        var runs: [ComparisonReport.Run] = []
        for job in jobs {
            let path = "\(job.recipe.training.output)/log.jsonl"
            guard let entries = try? RunLog.read(path) else { continue }
            func points(_ key: String) -> [ComparisonReport.Point] {
                entries.compactMap { entry in
                    guard let step = entry["step"]?.intValue, let loss = entry[key]?.doubleValue else { return nil }
                    return .init(tokens: step * job.recipe.tokensPerStep, loss: loss)
                }
            }
            let validation = points("validation_loss")
            guard !validation.isEmpty else { continue }
            let speeds = entries.compactMap { $0["tokens_per_second"]?.doubleValue }.sorted()
            runs.append(
                ComparisonReport.Run(
                    variant: job.variant, seed: job.seed, parameters: job.configuration.parameterCount,
                    layers: job.configuration.layerCount, geometry: try job.recipe.model.cacheGeometry(),
                    training: points("loss"), validation: validation,
                    tokensPerSecond: speeds.isEmpty ? nil : speeds[speeds.count / 2]))
        }
        return ComparisonReport(title: "Attention variants compared", setting: setting, runs: runs)
    }

    private var setting: [(name: String, value: String)] {
        let model = recipe.model
        return [
            ("data", recipe.data.path ?? recipe.data.text.joined(separator: ", ")),
            ("tokens a run", NumberText.grouped(recipe.resolvedSteps * recipe.tokensPerStep)),
            ("batch", "\(recipe.data.batchSize * recipe.data.accumulation) x \(recipe.data.sequenceLength)"),
            (
                "model",
                "\(model.layers) layers, width \(model.hiddenSize), \(model.heads) heads of \(model.resolvedHeadWidth)"
            ),
            (
                "learning rate",
                "\(NumberText.scientific(recipe.optimizer.learningRate)), \(recipe.schedule.kind.rawValue)"
            ),
            ("seeds", recipe.compare.seeds.map(String.init).joined(separator: ", ")),
            ("arithmetic", recipe.training.compute.rawValue),
        ]
    }

    /// Writes `comparison.html` and `comparison.json` into the recipe's output folder.
    /// - Returns: the page's path.
    public func writeReport() throws -> String {
        let report = try report()
        let folder = recipe.training.output
        for (name, contents) in [
            ("comparison.json", report.json.serialized(.pretty) + "\n"), ("comparison.html", report.html),
        ] {
            let file = try AtomicFile(path: "\(folder)/\(name)")
            try file.write(Array(contents.utf8))
            try file.publish()
        }
        return "\(folder)/comparison.html"
    }
}

/// Why recipes cannot be compared.
public enum ComparisonError: Error, Equatable, CustomStringConvertible {
    /// The recipe starts from a model or learns from conversations.
    case notFromScratch

    /// One sentence for people.
    public var description: String {
        "a comparison trains variants from fresh weights on text: expected neither model.from nor data.chat nor another task in the recipe"
    }
}
