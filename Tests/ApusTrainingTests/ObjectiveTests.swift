import ApusModels
import ApusTensor
import ApusText
import ApusTraining
import Foundation
import Testing

/// A decoder and a head whose output at every token should be the token's number: state, heads, metrics and evaluations of
/// the objective's own.
private final class Regression: TrainingObjective {
    final class Head: Module {
        let weight: Parameter

        init(_ width: Int) { weight = Parameter(Tensor([Float](repeating: 0.01, count: width), shape: [1, width])) }

        func visitParameters(_ visit: (String, Parameter) -> Void) { visit("value.weight", weight) }
    }

    struct Failure: Error {}

    let head: Head
    private let model: TrainableDecoder
    private var counter = 0
    /// Scores of the evaluations to come.
    var scores: [Double] = []
    var failsAt = Int.max
    private var evaluations = 0

    init(_ model: TrainableDecoder) {
        self.model = model
        head = Head(model.configuration.hiddenSize)
    }

    var heads: (any Module)? { head }
    let hasComparableLoss = false
    let files = [(name: "note.txt", contents: Array("a note".utf8))]

    func microBatches(step: Int) throws -> [MicroBatch] {
        if step == failsAt { throw Failure() }
        // The data depend on a state of the objective's own.
        counter += 3
        let tokens = (0..<8).map { Int32(($0 * counter) % 17) }
        return [
            MicroBatch(weight: 1, tokens: 8) { [model, head] in
                let hidden = model.hidden(tokens, model.batch(starts: [0, 8]))
                let found = model.operations.linear(hidden, head.weight)
                let errors = zip(found.floats, tokens).map { $0 - Float($1) / 17 }
                return model.operations.scalar(
                    errors.reduce(0) { $0 + $1 * $1 } / 8,
                    of: [(found, Tensor(errors.map { $0 / 4 }, shape: found.shape))])
            }
        ]
    }

    func finishStep() -> [TrainingMetric] { [TrainingMetric("counter", Double(counter), isShown: true)] }

    func evaluate() -> TrainingEvaluation? {
        defer { evaluations += 1 }
        return TrainingEvaluation(
            metrics: [TrainingMetric("loss", 1)], count: 1, unit: "tokens",
            score: evaluations < scores.count ? scores[evaluations] : 0)
    }

    var state: JSONValue { ["counter": .integer(Int64(counter))] }

    func restore(_ state: JSONValue) throws { counter = try JSONNode(state, name: "state").int("counter") }
}

@Suite struct ObjectiveTests {
    private func model() throws -> TrainableDecoder {
        var recipe = Recipe()
        recipe.model.hiddenSize = 16
        recipe.model.layers = 1
        recipe.model.heads = 2
        recipe.model.feedForwardWidth = 24
        let configuration = try recipe.model.decoderConfiguration(vocabulary: 17, maxPositions: 64)
        return try TrainableDecoder(initializing: configuration, seed: 4, on: DifferentiableOperations())
    }

    private func settings(steps: Int, evaluateEvery: Int = 0, patience: Int? = nil) -> Trainer.Settings {
        Trainer.Settings(
            steps: steps, optimizer: AdamW.Settings(),
            schedule: LearningRateSchedule(
                peak: 1e-2, kind: .constant, warmupSteps: 0, totalSteps: steps, minRatio: 1, decayFraction: 0),
            evaluateEvery: evaluateEvery, patience: patience)
    }

    private func temporaryFolder() throws -> String {
        let path = FileManager.default.temporaryDirectory.appending(path: "apus-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        return path
    }

    @Test func headsAndStateSurviveACheckpoint() async throws {
        let folder = try temporaryFolder()
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let store = try CheckpointStore(folder: folder, keep: 1)
        var unbroken: [Trainer.StepReport] = []
        func keep(_ event: Trainer.Event, in reports: inout [Trainer.StepReport]) {
            guard case .step(var report) = event else { return }
            report.seconds = 0
            reports.append(report)
        }
        let model = try model()
        let whole = Trainer(model: model, objective: Regression(model), settings: settings(steps: 20))
        try await whole.run { keep($0, in: &unbroken) }
        #expect(unbroken.last!.loss < unbroken.first!.loss)
        #expect(unbroken[4].metrics == [TrainingMetric("counter", 15, isShown: true)])

        var broken: [Trainer.StepReport] = []
        let other = try self.model()
        let first = Trainer(model: other, objective: Regression(other), settings: settings(steps: 20), store: store)
        try await first.run(shouldStop: { first.step == 9 }) { keep($0, in: &broken) }
        let entry = try #require(store.latest)
        #expect(try String(contentsOfFile: "\(entry.path)/note.txt", encoding: .utf8) == "a note")
        let resumed = try Trainer(
            resuming: entry, objective: { Regression($0) }, settings: settings(steps: 20), store: nil,
            on: DifferentiableOperations())
        try await resumed.run { keep($0, in: &broken) }
        #expect(broken == unbroken)
        #expect(
            (resumed.objective as? Regression)?.head.weight.value.floats
                == (whole.objective as? Regression)?.head.weight.value.floats)
    }

    @Test func aRunEndsWhereEvaluationsGetNoBetterAndKeepsTheBest() async throws {
        let folder = try temporaryFolder()
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let store = try CheckpointStore(folder: folder, keep: 1)
        let model = try model()
        let objective = Regression(model)
        objective.scores = [0.5, 0.7, 0.7, 0.6, 0.9]
        let trainer = Trainer(
            model: model, objective: objective, settings: settings(steps: 50, evaluateEvery: 5, patience: 2),
            store: store)
        var ended: [Int] = []
        var best: [Int] = []
        var kept: [Float] = []
        try await trainer.run { event in
            switch event {
            case .best(let step, _):
                best.append(step)
                kept = model.parameters()[0].parameter.value.floats
            case .ended(let step, let best): ended = [step, best]
            default: break
            }
        }
        #expect(best == [5, 10] && ended == [20, 10] && trainer.step == 20)
        #expect(store.latest?.step == 20)
        let saved = try TrainableDecoder(
            Checkpoints.open("\(folder)/\(CheckpointStore.best)"), on: DifferentiableOperations())
        #expect(saved.parameters()[0].parameter.value.floats == kept)
        // A run that has ended stays so.
        let again = try Trainer(
            resuming: try #require(store.latest), objective: { Regression($0) },
            settings: settings(steps: 50, evaluateEvery: 5, patience: 2), store: store, on: DifferentiableOperations())
        try await again.run { event in Issue.record("\(event)") }
        #expect(again.isOver && again.step == 20)
        #expect(again.state.best == TrainerState.Best(step: 10, score: 0.7))
    }

    @Test func anObjectiveThatFailsLeavesACheckpoint() async throws {
        let folder = try temporaryFolder()
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let store = try CheckpointStore(folder: folder, keep: 1)
        let model = try model()
        let objective = Regression(model)
        objective.failsAt = 7
        let trainer = Trainer(model: model, objective: objective, settings: settings(steps: 20), store: store)
        await #expect(throws: Regression.Failure.self) { try await trainer.run { _ in } }
        #expect(store.latest?.step == 7)
    }

    @Test func tasksOfRewardsAreNotThisModules() throws {
        let folder = try temporaryFolder()
        defer { try? FileManager.default.removeItem(atPath: folder) }
        var recipe = Recipe()
        recipe.task = .grpo
        recipe.training.output = folder
        #expect(throws: TrainerError.task("grpo")) { _ = try TrainingRun(recipe, start: .fresh) }
    }
}
