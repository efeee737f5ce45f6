import ApusModels
import ApusTensor
import ApusTraining
import Foundation
import Testing

/// Sequences that count upwards modulo a number: a small model learns them in seconds.
private struct Counting: BatchSource {
    var vocabulary = 17
    var rows = 3
    var length = 12
    /// A step from which on every target is wrong.
    var wrongFrom = Int.max

    func batch(step: Int, part: Int) -> PackedBatch {
        let starts = (0...rows).map { $0 * length }
        var (tokens, targets) = ([Int32](), [Int32]())
        for row in 0..<rows {
            let first = step * 5 + part * 3 + row * 7
            let run = (0...length).map { Int32((first + $0) % vocabulary) }
            tokens += run.dropLast()
            targets += step >= wrongFrom ? run.dropFirst().map { ($0 + 5) % Int32(vocabulary) } : Array(run.dropFirst())
        }
        return PackedBatch(tokens: tokens, targets: targets, starts: starts)
    }

    var evaluationBatches: Int { 2 }
    func evaluationBatch(_ index: Int) -> PackedBatch { batch(step: 1000 + index, part: 0) }
}

@Suite struct TrainerTests {
    private func model(_ compute: DType = .f32) throws -> TrainableDecoder {
        var recipe = Recipe()
        recipe.model.attention = .gla
        recipe.model.hiddenSize = 32
        recipe.model.layers = 2
        recipe.model.feedForwardWidth = 48
        recipe.model.latentWidth = 12
        let configuration = try recipe.model.decoderConfiguration(vocabulary: 17, maxPositions: 64)
        return try TrainableDecoder(
            initializing: configuration, seed: 4, on: DifferentiableOperations(compute: compute))
    }

    private func settings(steps: Int, checkpointEvery: Int = 0, spike: Double = 0) -> Trainer.Settings {
        Trainer.Settings(
            steps: steps, optimizer: AdamW.Settings(),
            schedule: LearningRateSchedule(
                peak: 1e-2, kind: .cosine, warmupSteps: 5, totalSteps: steps, minRatio: 0.1, decayFraction: 0.2),
            evaluateEvery: 10, checkpointEvery: checkpointEvery, spikeThreshold: spike)
    }

    private func temporaryFolder() -> String {
        let path = FileManager.default.temporaryDirectory.appending(path: "apus-\(UUID().uuidString)").path
        try? FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        return path
    }

    private func trainer(
        _ model: TrainableDecoder, _ settings: Trainer.Settings, data: Counting = Counting(),
        store: CheckpointStore? = nil
    ) -> Trainer {
        Trainer(
            model: model, objective: CrossEntropyObjective(model, data: data, accumulation: 2), settings: settings,
            store: store)
    }

    private func losses(_ trainer: Trainer, until last: Int = .max) async throws -> [Double] {
        var result: [Double] = []
        try await trainer.run(shouldStop: { trainer.step >= last }) { event in
            if case .step(let report) = event { result.append(report.loss) }
        }
        return result
    }

    @Test(arguments: [DType.f32, .bf16]) func theLossFalls(_ compute: DType) async throws {
        let trainer = self.trainer(try model(compute), settings(steps: 60))
        var evaluations: [Double] = []
        var steps: [Trainer.StepReport] = []
        try await trainer.run { event in
            switch event {
            case .step(let report): steps.append(report)
            case .evaluation(_, let evaluation):
                evaluations.append(evaluation.loss)
                #expect(evaluation.count == 72 && evaluation.metrics.map(\.name) == ["loss", "perplexity"])
            case .checkpoint, .best, .ended: Issue.record("there is no store")
            }
        }
        #expect(steps.map(\.step) == Array(1...60))
        #expect(abs(steps[0].loss - log(17)) < 0.1)
        #expect(steps[59].loss < 0.3 && evaluations.last! < 0.3)
        #expect(evaluations.count == 6)
        #expect(steps.allSatisfy { $0.gradientNorm > 0 && $0.tokens == 72 && $0.totalTokens == 72 * $0.step })
    }

    @Test(arguments: [DType.f32, .bf16]) func aResumedRunEqualsTheUnbrokenOneBitForBit(_ compute: DType) async throws {
        let unbroken = try await losses(trainer(model(compute), settings(steps: 24)))
        let folder = temporaryFolder()
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let store = try CheckpointStore(folder: folder, keep: 2, extraFiles: [("recipe.yaml", Array("a: 1".utf8))])
        let first = try await losses(
            trainer(model(compute), settings(steps: 24, checkpointEvery: 4), store: store), until: 13)
        #expect(store.entries.map(\.step) == [12, 13])
        #expect(FileManager.default.fileExists(atPath: "\(folder)/step-00000013/recipe.yaml"))
        let operations = DifferentiableOperations(compute: compute)
        let resumed = try Trainer(
            resuming: store.entries[0],
            objective: { CrossEntropyObjective($0, data: Counting(), accumulation: 2) }, settings: settings(steps: 24),
            store: nil, on: operations)
        #expect(resumed.state.tokens == 12 * 72)
        let rest = try await losses(resumed)
        #expect(first == Array(unbroken[..<13]))
        #expect(rest == Array(unbroken[12...]))
    }

    @Test func whatAKilledProcessLeftIsRemovedAndTheRestKept() throws {
        let folder = temporaryFolder()
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let store = try CheckpointStore(folder: folder, keep: 3)
        let model = try model()
        let optimizer = AdamW(model, AdamW.Settings(), on: CPUBackend.shared)
        let objective = CrossEntropyObjective(model, data: Counting(), accumulation: 2)
        _ = try store.save(model, optimizer, objective, TrainerState())
        try FileManager.default.createDirectory(
            atPath: "\(folder)/.unfinished-step-00000009", withIntermediateDirectories: true)
        let again = try CheckpointStore(folder: folder, keep: 3)
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder) == ["step-00000000"])
        #expect(again.latest?.step == 0)
    }

    @Test func aDamagedCheckpointIsNamed() throws {
        let folder = temporaryFolder()
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let store = try CheckpointStore(folder: folder, keep: 1)
        let model = try model()
        let optimizer = AdamW(model, AdamW.Settings(), on: CPUBackend.shared)
        var state = TrainerState()
        state.recentLoss = 1.25
        state.best = TrainerState.Best(step: 0, score: 0.1)
        let objective = CrossEntropyObjective(model, data: Counting(), accumulation: 2)
        let path = try store.save(model, optimizer, objective, state)
        let entry = try #require(store.latest)
        func load() throws -> Trainer {
            try Trainer(
                resuming: entry, objective: { CrossEntropyObjective($0, data: Counting(), accumulation: 2) },
                settings: settings(steps: 5), store: store, on: DifferentiableOperations())
        }
        #expect(try load().state == state)
        for file in ["optimizer.safetensors", "model.safetensors", "state.json", "config.json"] {
            let whole = try #require(FileManager.default.contents(atPath: "\(path)/\(file)"))
            try whole.prefix(whole.count / 2).write(to: URL(filePath: "\(path)/\(file)"))
            #expect(throws: (any Error).self, "\(file)") {
                _ = try load()
            }
            try whole.write(to: URL(filePath: "\(path)/\(file)"))
        }
    }

    @Test func aSpikeStopsTheRunBeforeItDoesHarm() async throws {
        let model = try model()
        let trainer = self.trainer(model, settings(steps: 60, spike: 1), data: Counting(wrongFrom: 40))
        let error = await #expect(throws: TrainerError.self) { _ = try await losses(trainer) }
        guard case .lossSpike(let step, let loss, let mean, 1, nil) = error else {
            Issue.record("\(String(describing: error))")
            return
        }
        #expect(step == 41 && loss > mean + 1 && trainer.step == 40)
        #expect(model.parameters().allSatisfy { $0.parameter.value.floats.allSatisfy(\.isFinite) })
    }

    @Test func aWeightThatIsNoNumberIsFoundAtTheNextStep() async throws {
        let model = try model()
        let trainer = self.trainer(model, settings(steps: 5))
        _ = try await trainer.makeStep()
        let (name, parameter) = model.parameters()[7]
        parameter.value.withMutableElements(of: Float.self) { $0[0] = .nan }
        let error = await #expect(throws: TrainerError.self) { _ = try await trainer.makeStep() }
        guard case .notFinite(2, _, nil) = error else {
            Issue.record("\(name): \(String(describing: error))")
            return
        }
    }

    @Test func schedulesHaveTheirForms() {
        func rates(_ kind: ScheduleKind) -> [Double] {
            let schedule = LearningRateSchedule(
                peak: 2, kind: kind, warmupSteps: 4, totalSteps: 20, minRatio: 0.1, decayFraction: 0.25)
            return (0..<20).map(schedule.rate)
        }
        for kind in ScheduleKind.allCases { #expect(Array(rates(kind)[..<5]) == [0.5, 1, 1.5, 2, 2]) }
        #expect(rates(.constant)[19] == 2)
        #expect(abs(rates(.cosine)[19] - 0.2) < 1e-12 && zip(rates(.cosine)[4...], rates(.cosine)[5...]).allSatisfy(>))
        #expect(rates(.wsd)[14] == 2 && abs(rates(.wsd)[19] - 0.2) < 1e-12 && rates(.wsd)[15] < 2)
    }
}
