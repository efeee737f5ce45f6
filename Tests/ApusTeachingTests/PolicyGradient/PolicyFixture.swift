import ApusEngine
import ApusModels
import ApusTeaching
import ApusTensor
import ApusText
import ApusTraining
import Foundation

/// A small model with a tokenizer of bytes, prompts, and a reward that is learnt quickly.
enum PolicyFixture {
    static let tokenizer: Tokenizer = {
        let trainer = BPETrainer(vocabularySize: 262, specialTokens: ["<|end|>"])
        do { return try trainer.train(["the quick brown fox"]).tokenizer() } catch { fatalError("\(error)") }
    }()

    static let end: Int32 = {
        guard let token = tokenizer.encode("<|end|>", addSpecialTokens: false, parseSpecialTokens: true).first else {
            fatalError("no end token")
        }
        return token
    }()

    static func model(
        _ attention: RecipeAttention = .gqa, compute: DType = .f32, seed: UInt64 = 3, deviation: Float = 0.05,
        hidden: Int = 32, layers: Int = 2
    ) throws -> TrainableDecoder {
        var recipe = Recipe()
        recipe.model.attention = attention
        recipe.model.hiddenSize = hidden
        recipe.model.layers = layers
        recipe.model.feedForwardWidth = 48
        if attention == .gla || attention == .mla { recipe.model.latentWidth = 12 }
        let configuration = try recipe.model.decoderConfiguration(
            vocabulary: tokenizer.idBound, maxPositions: 256)
        return try TrainableDecoder(
            initializing: configuration, seed: seed, deviation: deviation,
            on: DifferentiableOperations(compute: compute))
    }

    static func engine(_ model: TrainableDecoder, prompt: Int = 150, output: Int = 12, sequences: Int = 32) throws
        -> RolloutEngine
    {
        try RolloutEngine(
            model, tokenizer: tokenizer, chatTemplate: nil, endTokens: [end],
            sizes: RolloutEngine.Sizes(promptTokens: prompt, outputTokens: output, sequences: sequences))
    }

    static let prompts: [PolicyPrompt] = (0..<10).map { index in
        let text = String("abcdefghijklmnop".dropFirst(index).prefix(3 + index % 4))
        return PolicyPrompt(
            index: index, prompt: RewardPrompt(.text(text)),
            tokens: tokenizer.encode(text, addSpecialTokens: false, parseSpecialTokens: false))
    }

    static func settings(_ change: (inout Recipe.PolicyGradient) -> Void = { _ in }) -> Recipe.PolicyGradient {
        var settings = Recipe.PolicyGradient()
        settings.promptsPerRollout = 6
        settings.samples = 4
        settings.maxTokens = 8
        settings.normalizationPrompts = 4
        settings.normalizationSamples = 4
        settings.evaluationSamples = 2
        change(&settings)
        return settings
    }

    static func objective(
        _ task: RecipeTask, _ model: TrainableDecoder, reward: any RewardFunction = LowBytes(),
        _ change: (inout Recipe.PolicyGradient) -> Void = { _ in }
    ) throws -> PolicyGradientObjective {
        let settings = settings(change)
        let reference = try TrainableDecoder(MemoryCheckpoint(model), on: model.operations)
        reference.visitParameters { $1.isTrainable = false }
        return PolicyGradientObjective(
            model, engine: try engine(model, prompt: 8, output: settings.maxTokens),
            PolicyGradientObjective.Materials(
                task: task, settings: settings, seed: 7, reward: reward, groundTruth: LowBytes(),
                prompts: Array(prompts[..<8]), heldOut: Array(prompts[8...]), reference: reference))
    }

    static func trainerSettings(steps: Int, rate: Double = 1e-2, checkpointEvery: Int = 0) -> Trainer.Settings {
        var optimizer = AdamW.Settings()
        optimizer.weightDecay = 0
        return Trainer.Settings(
            steps: steps, optimizer: optimizer,
            schedule: LearningRateSchedule(
                peak: rate, kind: .constant, warmupSteps: 0, totalSteps: steps, minRatio: 1, decayFraction: 0),
            evaluateEvery: 3, checkpointEvery: checkpointEvery)
    }
}

/// The share of an output's bytes that are below 64: about a quarter at the start.
struct LowBytes: RewardFunction {
    let name = "low bytes"

    func rewards(of outputs: [String], prompt: RewardPrompt) -> [Double] {
        outputs.map { text in
            let bytes = Array(text.utf8)
            return bytes.isEmpty ? 0 : Double(bytes.count { $0 < 64 }) / Double(bytes.count)
        }
    }
}

/// A reward that breaks at some call.
final class BreakingReward: RewardFunction, @unchecked Sendable {
    enum Fault: CaseIterable {
        case notANumber, thrown, tooFew
    }

    struct Problem: Error {}

    let name = "breaking"
    private let fault: Fault
    private let calls: Int
    private var made = 0

    init(_ fault: Fault, afterCalls calls: Int) {
        self.fault = fault
        self.calls = calls
    }

    func rewards(of outputs: [String], prompt: RewardPrompt) throws -> [Double] {
        made += 1
        if made > calls {
            switch fault {
            case .notANumber: return outputs.map { _ in .nan }
            case .thrown: throw Problem()
            case .tooFew: return [1]
            }
        }
        return LowBytes().rewards(of: outputs, prompt: prompt)
    }
}
