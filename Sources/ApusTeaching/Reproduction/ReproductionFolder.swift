import ApusModels
import ApusTensor
import ApusText
import ApusTraining

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

/// A reproduction's folder: its stages leave files there, and what is complete is not made again.
struct ReproductionFolder {
    let path: String

    private static let plan = "plan.json"
    private static let done = "done"

    /// Opens or makes the folder of a plan. One with fewer seeds, of which the plan's are more, is gone on with.
    /// - Throws: ``ReproductionError/otherPlan(folder:key:expected:found:)``.
    init(_ path: String, plan: ReproductionPlan) throws {
        self.path = path
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        if let contents = FileManager.default.contents(atPath: "\(path)/\(Self.plan)") {
            let found = try JSONValue(parsing: Array(contents)).objectValue ?? JSONObject()
            for member in plan.json {
                let (wanted, there) = (member.value.serialized(), found[member.key]?.serialized() ?? "nothing")
                guard wanted == there || member.key == "seeds" && Self.begins(member.value, with: found["seeds"]) else {
                    throw ReproductionError.otherPlan(folder: path, key: member.key, expected: wanted, found: there)
                }
            }
            if found["seeds"] == plan.json["seeds"] { return }
        }
        try write(Self.plan, JSONValue.object(plan.json).serialized(.pretty) + "\n")
    }

    private static func begins(_ seeds: JSONValue, with fewer: JSONValue?) -> Bool {
        guard let all = seeds.arrayValue, let fewer = fewer?.arrayValue else { return false }
        return all.starts(with: fewer)
    }

    func file(_ name: String) -> String { "\(path)/\(name)" }

    func has(_ name: String) -> Bool { FileManager.default.fileExists(atPath: file(name)) }

    /// Writes a file, which appears when it is whole.
    func write(_ name: String, _ text: String) throws {
        let file = try AtomicFile(path: file(name))
        try file.write(Array(text.utf8))
        try file.publish()
    }

    /// Writes rows of JSON Lines.
    func write(_ name: String, rows: [JSONObject]) throws {
        try write(name, rows.map { JSONValue.object($0).serialized() + "\n" }.joined())
    }

    /// Makes a run, or goes on with it, unless it is complete.
    /// - Parameters:
    ///   - keepsModel: whether its checkpoints are needed afterwards.
    ///   - report: told of the run's steps.
    /// - Throws: `CancellationError` where `shouldStop` says so; what the run throws.
    func run(
        _ name: String, _ recipe: Recipe, keepsModel: Bool = true, on backend: CPUBackend, shouldStop: () -> Bool,
        report: (Trainer.Event, _ steps: Int) -> Void
    ) async throws {
        if has("\(name)/\(Self.done)") { return }
        let run = try TrainingRun(
            recipe, start: .resume, task: TeachingTasks.task(recipe.resolvedTask), keepsLast: keepsModel, on: backend)
        let steps = run.trainer.settings.steps
        try await run.run(shouldStop: shouldStop) { report($0, steps) }
        guard run.trainer.isOver else { throw CancellationError() }
        if !keepsModel { try? FileManager.default.removeItem(atPath: file("\(name)/checkpoints")) }
        try write("\(name)/\(Self.done)", "")
    }

    /// The model of a run: the best, where that was kept, or the last.
    /// - Throws: ``ReproductionError/stage(_:problem:)`` where there is none.
    func model(_ name: String) throws -> String {
        let best = "\(name)/checkpoints/\(CheckpointStore.best)"
        if has(best) { return file(best) }
        guard let last = CheckpointStore.entries(in: file("\(name)/checkpoints")).last else {
            throw ReproductionError.stage(name, problem: "expected a checkpoint in \(file(name)), found none")
        }
        return last.path
    }
}
