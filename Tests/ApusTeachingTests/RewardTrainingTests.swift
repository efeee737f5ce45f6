import ApusModels
import ApusTeaching
import ApusTensor
import ApusText
import ApusTraining
import Foundation
import Testing

/// A reward model learns from preferences.
@Suite struct RewardTrainingTests {
    private static let models = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .appending(path: "Fixtures/models")

    private static let template = """
        {% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}\
        {% if add_generation_prompt %}assistant: {% endif %}
        """

    /// A folder with a small language model, its tokenizer and template, and preferences between two words.
    private struct Workplace: ~Copyable {
        let folder: String

        init() throws {
            folder = FileManager.default.temporaryDirectory.appending(path: "apus-\(UUID().uuidString)").path
            let base = "\(folder)/base"
            try FileManager.default.createDirectory(atPath: base, withIntermediateDirectories: true)
            let trained = try BPETrainer(vocabularySize: 300, specialTokens: ["<|end|>", "<|pad|>"]).train([
                String(repeating: "the swift flies over the river and the roof, user: assistant: ", count: 20)
            ])
            try trained.json.write(toFile: "\(base)/tokenizer.json", atomically: true, encoding: .utf8)
            try template.write(toFile: "\(base)/chat_template.jinja", atomically: true, encoding: .utf8)
            var recipe = Recipe()
            recipe.model.hiddenSize = 32
            recipe.model.layers = 2
            recipe.model.heads = 2
            recipe.model.feedForwardWidth = 48
            var configuration = try recipe.model.decoderConfiguration(
                vocabulary: try trained.tokenizer().idBound, maxPositions: 128)
            configuration.eosTokens = [256]
            try TrainableDecoder(initializing: configuration, seed: 1, on: DifferentiableOperations())
                .writeHuggingFaceFiles(to: base)
            try write("on.jsonl", (0..<60).map { Self.row("over \($0)", "the swift \($0 % 7)", "the river \($0 % 5)") })
            try write("off.jsonl", (0..<40).map { Self.row("roof \($0)", "a swift \($0 % 3)", "a river \($0 % 4)") })
        }

        static func row(_ prompt: String, _ chosen: String, _ rejected: String) -> String {
            #"{"prompt": "\#(prompt)", "chosen": "\#(chosen)", "rejected": "\#(rejected)"}"#
        }

        func write(_ name: String, _ rows: [String]) throws {
            try rows.joined(separator: "\n").write(toFile: "\(folder)/\(name)", atomically: true, encoding: .utf8)
        }

        func recipe(_ output: String, _ settings: [String] = []) throws -> Recipe {
            try Recipe.parse(
                """
                task: reward
                model: {from: \(folder)/base}
                data: {sequence_length: 64, batch_size: 4}
                reward: {on_policy: \(folder)/on.jsonl, off_policy: \(folder)/off.jsonl, validation_fraction: 0.2}
                optimizer: {learning_rate: 1e-2}
                training: {output: \(folder)/\(output), compute: float32, log_every: 1, evaluate_every: 5}
                """, overrides: settings)
        }

        deinit { try? FileManager.default.removeItem(atPath: folder) }
    }

    private static func run(
        _ recipe: Recipe, start: TrainingRun.Start = .fresh, until last: Int = .max
    ) async throws -> TrainingRun {
        let run = try TrainingRun(recipe, start: start, task: TeachingTasks.task(.reward))
        try await run.run(shouldStop: { run.trainer.step >= last }) { _ in }
        return run
    }

    @Test func aSeparablePreferenceIsLearntAndSaved() async throws {
        let place = try Workplace()
        let recipe = try place.recipe("run", ["reward.epochs=4"])
        let run = try await Self.run(recipe)
        #expect(run.summary == "80 pairs to train on, 20 held out")
        #expect(run.trainer.settings.steps == 80 && run.trainer.settings.patience == 3)
        let entries = try RunLog.read("\(place.folder)/run/log.jsonl")
        let last = try #require(entries.last { $0["validation_accuracy"] != nil })
        #expect(try #require(last["validation_accuracy"]?.doubleValue) == 1)
        for key in ["accuracy", "margin", "reward_mean", "reward_deviation"] {
            #expect(entries[0][key]?.doubleValue?.isFinite == true, "\(key)")
        }
        // It was perfect early, and no evaluation could be better.
        #expect(run.trainer.step < 80)

        let path = "\(place.folder)/run/checkpoints/best"
        let model = try RewardModel(path: path, backend: CPUBackend(threads: 2, precision: .float32))
        let prompt = RewardPrompt(.text("over 77"))
        let rewards = try model.rewards(of: ["the swift 6", "the river 1"], prompt: prompt)
        #expect(rewards[0] > rewards[1])
        let normalization = try #require(model.normalization)
        #expect(normalization.count == 40 && normalization.deviation > 0)
        #expect(abs(normalization.normalized(normalization.mean + normalization.deviation) - 1) < 1e-12)
        // The decode form scores what the training form does.
        let trained = try TrainableDecoder(Checkpoints.open(path), on: DifferentiableOperations())
        let tokens = try model.encoder.tokens("the swift 6", prompt: prompt)
        let score = withoutGradients { trained.scores(tokens, trained.batch(starts: [0, tokens.count])) }.floats[0]
        #expect(abs(Double(score) - rewards[0]) <= 1e-4 * max(1, abs(rewards[0])))
        // Every conversation ends with <|end|>, so batches are filled up with another token.
        let configuration = try Checkpoints.open(path).configuration
        #expect(configuration.head == .score(labels: 1) && configuration.padToken != nil)
        #expect(configuration.padToken != tokens.last.map { Int($0) })
    }

    @Test func aResumedRunEqualsTheUnbrokenOneBitForBit() async throws {
        let place = try Workplace()
        func figures(_ output: String) throws -> [String] {
            try RunLog.read("\(place.folder)/\(output)/log.jsonl").map { entry in
                var entry = entry
                entry["tokens_per_second"] = nil
                return JSONValue.object(entry).serialized()
            }
        }
        let settings = ["training.patience=0", "reward.on_policy_share=0.5", "reward.pairs=64"]
        let whole = try await Self.run(try place.recipe("whole", settings))
        #expect(whole.summary.hasSuffix("held out") && whole.notes == ["32 of 64 pairs are on-policy"])
        _ = try await Self.run(try place.recipe("parts", settings), until: 7)
        let resumed = try await Self.run(try place.recipe("parts", settings), start: .resume)
        #expect(resumed.resumedFrom?.step == 7)
        #expect(try figures("parts") == figures("whole"))
    }

    @Test func theLossFollowsItsGradient() throws {
        let checkpoint = try Checkpoints.open(Self.models.appending(path: "llama-reward").path)
        let model = try TrainableDecoder(checkpoint, on: DifferentiableOperations())
        let tokens = (0..<26).map { Int32(($0 * 11 + 3) % 67) }
        let starts = [0, 5, 12, 19, 26]
        func loss() -> Tensor {
            PreferenceObjective.loss(
                model, tokens: tokens, starts: starts, margins: [0.3, 0], centering: 0.05
            ).loss
        }
        let (_, gradients) = valueAndGrad(model) { loss() }
        for (name, parameter) in model.parameters() {
            let gradient = try #require(gradients[name]).floats
            let norm = gradient.reduce(0.0) { $0 + Double($1) * Double($1) }.squareRoot()
            guard norm > 1e-5 else { continue }
            let values = parameter.value.floats
            func value(at step: Double) -> Double {
                parameter.value.withMutableElements(of: Float.self) { elements in
                    for index in elements.indices {
                        elements[index] = values[index] + Float(step * Double(gradient[index]) / norm)
                    }
                }
                return Double(withoutGradients { loss() }.floats[0])
            }
            let step = 3e-3
            let slope = (value(at: step) - value(at: -step)) / (2 * step)
            _ = value(at: 0)
            #expect(abs(slope - norm) <= 2e-2 * norm + 1e-4, "\(name): \(slope), \(norm)")
        }
    }

    @Test func scoresOfTheTrainingFormEqualTransformers() throws {
        let folder = Self.models.appending(path: "llama-reward").path
        let file = try SafetensorsFile(path: "\(folder)/expected.safetensors")
        let ids = try file.tensor(named: "tokens")
        let tokens = ids.withElements(of: Int64.self) { $0.map { Int32($0) } }
        let (rows, width) = (ids.shape[0], ids.shape[1])
        let model = try TrainableDecoder(Checkpoints.open(folder), on: DifferentiableOperations())
        let scores = withoutGradients { model.scores(tokens, model.batch(starts: (0...rows).map { $0 * width })) }
        for (found, expected) in zip(scores.floats, try file.tensor(named: "scores").floats) {
            #expect(abs(found - expected) <= 2e-5 * max(1, abs(expected)))
        }
    }

    @Test func twoLabelsAreRefused() throws {
        let place = try Workplace()
        var configuration = try Checkpoints.open("\(place.folder)/base").configuration
        configuration.head = .score(labels: 2)
        try TrainableDecoder(initializing: configuration, seed: 1, on: DifferentiableOperations())
            .writeHuggingFaceFiles(to: "\(place.folder)/base")
        let error = #expect(throws: RewardError.self) {
            _ = try TrainingRun(try place.recipe("run"), start: .fresh, task: TeachingTasks.task(.reward))
        }
        #expect("\(try #require(error))".contains("2 labels"))
    }

    @Test func mixesThatCannotBeAreNamed() throws {
        let place = try Workplace()
        func error(_ settings: String...) throws -> String {
            let recipe = try place.recipe("run", settings)
            let error = #expect(throws: TeachingDataError.self) {
                _ = try TrainingRun(recipe, start: .fresh, task: TeachingTasks.task(.reward))
            }
            return "\(try #require(error))"
        }
        let found = try error("reward.pairs=200", "reward.on_policy_share=0.2")
        #expect(found.contains("off.jsonl") && found.contains("at least 160 preference pairs, found 40"))
        #expect(try error("data.sequence_length=3").contains("at most 3 tokens"))
        try place.write("off.jsonl", [Workplace.row("a", "b", "c"), Workplace.row("a", "b", "b")])
        #expect(try error().contains("off.jsonl, line 2"))
    }
}
