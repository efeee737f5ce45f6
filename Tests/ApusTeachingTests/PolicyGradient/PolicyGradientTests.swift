import ApusModels
import ApusTeaching
import ApusTensor
import ApusTraining
import Foundation
import Testing

/// Policy gradients as a whole, on a reward that a small model learns in seconds.
@Suite struct PolicyGradientTests {
    private func temporaryFolder() throws -> String {
        let path = FileManager.default.temporaryDirectory.appending(path: "apus-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        return path
    }

    /// A run's steps and evaluations, without the seconds.
    private func events(_ trainer: Trainer, until last: Int = .max) async throws -> (
        steps: [[String: Double]], evaluations: [TrainingEvaluation]
    ) {
        var (steps, evaluations) = ([[String: Double]](), [TrainingEvaluation]())
        try await trainer.run(shouldStop: { trainer.step >= last }) { event in
            switch event {
            case .step(let step):
                var figures = ["loss": step.loss, "norm": step.gradientNorm]
                for metric in step.metrics where !metric.name.hasSuffix("seconds") {
                    figures[metric.name] = metric.value
                }
                steps.append(figures)
            case .evaluation(_, let evaluation): evaluations.append(evaluation)
            default: break
            }
        }
        return (steps, evaluations)
    }

    @Test(arguments: [
        (RecipeTask.rloo, 1, 1, DType.f32), (.rloo, 2, 2, .f32), (.grpo, 1, 1, .f32), (.grpo, 2, 2, .bf16),
        (.reinforce, 1, 1, .f32), (.ppo, 2, 1, .f32),
    ])
    func rewardsAreLearnt(_ task: RecipeTask, _ epochs: Int, _ minibatches: Int, _ compute: DType) async throws {
        let model = try PolicyFixture.model(compute: compute)
        let objective = try PolicyFixture.objective(task, model) {
            $0.epochs = epochs
            $0.minibatches = minibatches
            $0.kl = 0.01
            $0.microBatchTokens = 100
        }
        let trainer = Trainer(
            model: model, objective: objective,
            settings: PolicyFixture.trainerSettings(steps: 24 * epochs * minibatches, rate: 2e-2))
        let (steps, evaluations) = try await events(trainer)
        let rewards = steps.compactMap { $0["reward"] }
        #expect(rewards.count == 24)
        // Normalised by the initial policy's outputs: 0 at the start, deviations later.
        #expect(abs(rewards[0]) < 0.8 && rewards.suffix(4).reduce(0, +) / 4 > rewards[0] + 1)
        let last = try #require(evaluations.last)
        let increase = try #require(last.metrics.first { $0.name == "ground_truth_increase" })
        #expect(increase.value > 0.1)
        for step in steps { #expect(step.values.allSatisfy { $0.isFinite }) }
        let difference = try #require(steps[0]["log_probability_difference_p99"])
        #expect(difference <= (compute == .f32 ? 1e-3 : 0.1))
        // Rollouts begin where the policy is: nothing is clipped in a first update on one minibatch.
        let (ratio, kl) = (try #require(steps[0]["ratio"]), try #require(steps[0]["kl"]))
        #expect(steps[0]["clip_share"] == 0 && abs(ratio - 1) < 1e-3)
        #expect(abs(kl) < (compute == .f32 ? 1e-3 : 0.1))
        #expect(epochs * minibatches == 1 || steps.contains { ($0["clip_share"] ?? 0) > 0 })
    }

    /// Stopped after any step, also between the updates of one rollout, a run goes on as the unbroken one.
    @Test(arguments: [RecipeTask.rloo, .grpo, .reinforce, .ppo], [3, 5])
    func resumedRunsAreTheSame(_ task: RecipeTask, _ stop: Int) async throws {
        func change(_ settings: inout Recipe.PolicyGradient) {
            settings.minibatches = 2
            settings.zeroVariance = .resample
            settings.allocation = .variance
            settings.divideByDeviation = false
            settings.average = .constant
        }
        let settings = PolicyFixture.trainerSettings(steps: 8)
        let whole = try PolicyFixture.model()
        let expected = try await events(
            Trainer(model: whole, objective: try PolicyFixture.objective(task, whole, change), settings: settings))

        let folder = try temporaryFolder()
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let store = try CheckpointStore(folder: folder, keep: 2)
        let model = try PolicyFixture.model()
        let before = try await events(
            Trainer(
                model: model, objective: try PolicyFixture.objective(task, model, change), settings: settings,
                store: store), until: stop)
        let reference = try PolicyFixture.model()
        let resumed = try Trainer(
            resuming: try #require(store.latest),
            objective: { model in
                // The reference is the initial policy, not the one that is gone on from.
                PolicyGradientObjective(
                    model, engine: try PolicyFixture.engine(model, prompt: 8, output: 8),
                    PolicyGradientObjective.Materials(
                        task: task, settings: PolicyFixture.settings(change), seed: 7, reward: LowBytes(),
                        groundTruth: LowBytes(), prompts: Array(PolicyFixture.prompts[..<8]),
                        heldOut: Array(PolicyFixture.prompts[8...]), reference: reference))
            }, settings: settings, store: store, on: DifferentiableOperations())
        let after = try await events(resumed)
        #expect(before.steps + after.steps == expected.steps)
        #expect(before.evaluations + after.evaluations == expected.evaluations)
    }

    /// Compared by the engine's kernels, a rollout's first ratio is 1 to the last bit; later ones move and are clipped.
    @Test(arguments: [RecipeTask.rloo, .grpo, .ppo], [RecipeAttention.gqa, .gla])
    func ratiosByTheEngineBeginAtOne(_ task: RecipeTask, _ attention: RecipeAttention) async throws {
        let model = try PolicyFixture.model(attention)
        let objective = try PolicyFixture.objective(task, model) {
            $0.logProbabilities = .engine
            $0.epochs = 3
            $0.clip = 0.05
        }
        let trainer = Trainer(
            model: model, objective: objective, settings: PolicyFixture.trainerSettings(steps: 6, rate: 2e-2))
        let (steps, _) = try await events(trainer)
        for first in [0, 3] {
            #expect(steps[first]["log_probability_difference_p99"] == 0)
            #expect(steps[first]["ratio"] == 1 && steps[first]["clip_share"] == 0)
            #expect(steps[first + 2]["ratio"] != 1 && (steps[first + 2]["clip_share"] ?? 0) > 0)
        }
    }

    /// A reward that breaks stops the step; the steps before it are kept, and the prompt is named.
    @Test(arguments: BreakingReward.Fault.allCases)
    func aBrokenRewardStopsWithTheStateSaved(_ fault: BreakingReward.Fault) async throws {
        let folder = try temporaryFolder()
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let store = try CheckpointStore(folder: folder, keep: 2)
        let model = try PolicyFixture.model()
        // 4 prompts to normalise, 2 held out, two rollouts of 6.
        let objective = try PolicyFixture.objective(
            .rloo, model, reward: BreakingReward(fault, afterCalls: 4 + 2 + 12))
        let trainer = Trainer(
            model: model, objective: objective, settings: PolicyFixture.trainerSettings(steps: 8), store: store)
        let error = await #expect(throws: RewardError.self) { try await trainer.run { _ in } }
        let text = "\(try #require(error))"
        #expect(text.contains("prompt "))
        #expect(store.latest?.step == 2)
        #expect(trainer.objective.state == objective.state)
    }

    /// All rewards equal: kept groups change nothing but by the KL term, dropped ones leave nothing to learn from.
    @Test func equalRewardsAreNothingToLearnFrom() async throws {
        struct Flat: RewardFunction {
            let name = "flat"
            func rewards(of outputs: [String], prompt: RewardPrompt) -> [Double] { outputs.map { _ in 1 } }
        }
        let model = try PolicyFixture.model()
        let kept = Trainer(
            model: model, objective: try PolicyFixture.objective(.rloo, model, reward: Flat()) { $0.kl = 0 },
            settings: PolicyFixture.trainerSettings(steps: 1))
        let step = try await kept.makeStep()
        #expect(step.gradientNorm == 0)
        #expect(step.metrics.first { $0.name == "zero_variance_share" }?.value == 1)
        for handling in [ZeroVarianceGroups.drop, .resample] {
            let dropped = Trainer(
                model: model,
                objective: try PolicyFixture.objective(.rloo, model, reward: Flat()) { $0.zeroVariance = handling },
                settings: PolicyFixture.trainerSettings(steps: 1))
            await #expect(throws: PolicyGradientError.nothingToLearn(step: 1, groups: 6)) {
                _ = try await dropped.makeStep()
            }
        }
    }

    @Test func partingIsSeen() {
        func evaluation(_ proxy: Double, _ truth: Double) -> PolicyEvaluation {
            let noise = [-0.1, 0.1, 0.05, -0.05]
            return PolicyEvaluation(
                step: 0, proxy: .init(byPrompt: noise.map { proxy + $0 }),
                groundTruth: .init(byPrompt: noise.map { truth - $0 / 2 }), length: 1)
        }
        let rising = [evaluation(0, 0), evaluation(1, 1), evaluation(2, 1.5)]
        #expect(!PolicyEvaluation.hasParted(rising))
        #expect(PolicyEvaluation.hasParted(rising + [evaluation(3, 1)]))
        #expect(!PolicyEvaluation.hasParted(rising + [evaluation(1.5, 1)]))
    }
}
