import ApusTeaching
import ApusTensor
import ApusText
import Foundation
import Synchronization
import Testing

/// The reproduction from end to end, at the smallest sizes.
@Suite struct ReproductionTests {
    private func temporaryFolder() throws -> String {
        let path = FileManager.default.temporaryDirectory.appending(path: "apus-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        return path
    }

    private func plan(_ folder: String) throws -> ReproductionPlan {
        let books = "\(folder)/books.txt"
        let preferences = "\(folder)/preferences.jsonl"
        let words = ["swift", "river", "roof", "tree", "stone", "light", "bird", "night"]
        let sentences = (0..<400).map {
            "The \(words[$0 % 8]) and the \(words[$0 / 8 % 8]) are near the \(words[$0 % 5])."
        }
        // Books of 20 sentences.
        let text = sentences.enumerated().map { $0 % 20 == 19 ? $1 + "\n\n<|endoftext|>" : $1 }
        try text.joined(separator: "\n\n").write(toFile: books, atomically: true, encoding: .utf8)
        let rows = (0..<120).map { index in
            let (one, other) = (words[index % 8], words[index / 8 % 8])
            return #"{"prompt": "Where is the \#(one) \#(index)?", "chosen": "Near the \#(other).", "#
                + #""rejected": "the the \#(one) and the \#(other) and"}"#
        }
        try rows.joined(separator: "\n").write(toFile: preferences, atomically: true, encoding: .utf8)
        var plan = ReproductionPlan.quick(books: [books], preferences: [preferences])
        plan.vocabulary = 300
        plan.hiddenSize = 32
        plan.layers = 1
        plan.heads = 2
        plan.pretrainingTokens = 8192
        plan.fineTuningSteps = 20
        plan.pairPrompts = 20
        plan.pairs = 40
        plan.rewardEpochs = 1
        plan.shares = [1, 0]
        plan.measuredPrompts = 6
        plan.measuredSamples = 3
        plan.outputTokens = 8
        plan.steps = 2
        plan.evaluateEvery = 1
        plan.promptsPerStep = 4
        plan.samples = 2
        plan.seeds = [0, 1]
        plan.secondShares = [1, 0]
        plan.secondSeeds = 2
        return plan
    }

    @Test func everyStageLeavesItsFiguresAndIsKept() async throws {
        let folder = try temporaryFolder()
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let plan = try plan(folder)
        let output = "\(folder)/run"
        var stages: [String] = []
        let reproduction = try RewardTeachingReproduction(
            plan, folder: output,
            progress: { progress in
                if case .stage(let name) = progress { stages.append(name) }
            })
        let (result, report) = try await reproduction.run()
        #expect(stages.first == "pretraining on books" && stages.contains { $0.hasSuffix("100 % on-policy") })
        #expect(result.teachers.count == 5 && result.isOfPaper == [true, true, true, false, false])
        #expect(result.evaluations.map(\.policy) == ["policy", "terse-policy"])
        // All teachers for the first policy, the two reward models for the second.
        #expect(result.runs.map(\.teacher) == [0, 1, 2, 3, 4, 0, 1])
        for run in result.runs {
            #expect(run.curves.map(\.seed) == [0, 1])
            for curve in run.curves {
                #expect(curve.steps == [0, 1, 2])
                #expect(curve.proxy.count == 3 && curve.groundTruth.count == 3)
            }
        }
        let quality = result.evaluations[0].evaluation.qualities
        for perfect in quality[2...] {
            #expect(perfect.onPolicyAccuracy?.value == 1 && perfect.offPolicyAccuracy?.value == 1)
        }
        // The rewards of a prompt all but equal, those of prompts apart.
        #expect(quality[3].variance.value < 1e-4 && quality[4].variance.value > 1e-2)
        let page = try String(contentsOfFile: report, encoding: .utf8)
        #expect(page.contains("perfect, half x 0.001") && page.contains("<svg"))
        #expect(result.markdown.contains("RLOO of the policy"))

        // Again: nothing is trained or drawn, and the figures are the same.
        let start = ContinuousClock.now
        let (again, _) = try await RewardTeachingReproduction(plan, folder: output).run()
        #expect(again.json == result.json)
        #expect(ContinuousClock.now - start < .seconds(20))

        var other = plan
        other.steps = 3
        #expect(throws: ReproductionError.self) { _ = try RewardTeachingReproduction(other, folder: output) }
    }

    @Test func aStoppedReproductionGoesOn() async throws {
        let folder = try temporaryFolder()
        defer { try? FileManager.default.removeItem(atPath: folder) }
        var plan = try plan(folder)
        plan.secondShares = []
        plan.seeds = [0]
        let calls = Atomic(0)
        await #expect(throws: CancellationError.self) {
            _ = try await RewardTeachingReproduction(
                plan, folder: "\(folder)/parts",
                shouldStop: { calls.add(1, ordering: .relaxed).newValue == 25 }
            ).run()
        }
        let (parts, _) = try await RewardTeachingReproduction(plan, folder: "\(folder)/parts").run()
        let (whole, _) = try await RewardTeachingReproduction(plan, folder: "\(folder)/whole").run()
        #expect(parts.runs.map(\.curves) == whole.runs.map(\.curves))

        // One more seed, beside what is there.
        plan.seeds = [0, 1]
        let (more, _) = try await RewardTeachingReproduction(plan, folder: "\(folder)/parts").run()
        #expect(more.runs.map { $0.curves.map(\.seed) } == [[Int]](repeating: [0, 1], count: more.runs.count))
        #expect(more.runs.map { $0.curves[0] } == whole.runs.map { $0.curves[0] })
        plan.seeds = [0]
        #expect(throws: ReproductionError.self) { _ = try RewardTeachingReproduction(plan, folder: "\(folder)/parts") }
    }

    @Test func tooFewPromptsAreNamed() async throws {
        let folder = try temporaryFolder()
        defer { try? FileManager.default.removeItem(atPath: folder) }
        var plan = try plan(folder)
        plan.promptTokens = 1
        let reproduction = try RewardTeachingReproduction(plan, folder: "\(folder)/run")
        await #expect(throws: ReproductionError.tooFewPrompts(found: 0, needed: 2)) { try await reproduction.run() }
    }
}
