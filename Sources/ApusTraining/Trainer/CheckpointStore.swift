import ApusModels
import ApusTensor
import ApusText

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

/// A run's checkpoints: folders `step-00000500` in Hugging Face's layout, with the optimiser's state beside the weights.
///
/// A checkpoint is written in a folder of another name and renamed when it is complete, so that a process killed at any
/// moment, or a full disk, leaves the older ones as they were.
public final class CheckpointStore {
    /// A complete checkpoint.
    public struct Entry: Sendable, Equatable {
        /// Steps made.
        public let step: Int
        /// Its folder.
        public let path: String
    }

    /// Where the checkpoints stand.
    public let folder: String
    /// Newest checkpoints that are kept.
    public let keep: Int
    /// Further files of each checkpoint: the recipe, the tokenizer.
    public let extraFiles: [(name: String, contents: [UInt8])]

    private static let prefix = "step-"
    private static let unfinished = ".unfinished-"
    static let optimizerState = "optimizer.safetensors"
    static let state = "state.json"
    static let heads = "heads.safetensors"
    /// The folder of the best model.
    public static let best = "best"

    /// Opens or creates the folder, and removes what a killed process left unfinished.
    public init(folder: String, keep: Int, extraFiles: [(name: String, contents: [UInt8])] = []) throws {
        precondition(keep >= 1, "at least one checkpoint is kept")
        self.folder = folder
        self.keep = keep
        self.extraFiles = extraFiles
        let files = FileManager.default
        try files.createDirectory(atPath: folder, withIntermediateDirectories: true)
        for name in try files.contentsOfDirectory(atPath: folder) where name.hasPrefix(Self.unfinished) {
            try files.removeItem(atPath: "\(folder)/\(name)")
        }
    }

    /// The complete checkpoints, oldest first.
    public var entries: [Entry] { Self.entries(in: folder) }

    /// The complete checkpoints in a folder, oldest first; none where there is no folder.
    public static func entries(in folder: String) -> [Entry] {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
        return names.compactMap { name in
            guard name.hasPrefix(prefix), let step = Int(name.dropFirst(prefix.count)) else { return nil }
            return Entry(step: step, path: "\(folder)/\(name)")
        }.sorted { $0.step < $1.step }
    }

    /// The newest complete checkpoint.
    public var latest: Entry? { entries.last }

    /// Writes a checkpoint of a run, and removes those that are no longer kept.
    /// - Returns: its folder.
    public func save(
        _ model: TrainableDecoder, _ optimizer: AdamW, _ objective: any TrainingObjective, _ state: TrainerState
    ) throws -> String {
        let moments = optimizer.moments
        return try save(
            model, nil,
            Moments(
                step: optimizer.step, first: moments.mapValues(\.first), second: moments.mapValues(\.second)),
            objective, state)
    }

    /// What a checkpoint keeps of an optimiser, by the names of the whole model.
    struct Moments {
        /// Steps that it has made.
        var step: Int
        var first: [String: Tensor]
        var second: [String: Tensor]
    }

    /// As ``save(_:_:_:_:)``, with what was gathered from ranks.
    /// - Parameter weights: of the whole model; nil for the model's own.
    /// - Returns: its folder.
    func save(
        _ model: TrainableDecoder, _ weights: [String: Tensor]?, _ moments: Moments,
        _ objective: any TrainingObjective, _ state: TrainerState
    ) throws -> String {
        let number = "\(state.step)"
        let name = Self.prefix + String(repeating: "0", count: max(0, 8 - number.count)) + number
        let final = "\(folder)/\(name)"
        if FileManager.default.fileExists(atPath: final) { return final }
        try publish(name) { path in
            try writeModel(model, weights, objective, to: path)
            try writeMoments(moments, model.operations.backend, to: "\(path)/\(Self.optimizerState)")
            try Self.write(Array(state.json.serialized().utf8), to: "\(path)/\(Self.state)")
        }
        for old in entries.dropLast(keep) { try? FileManager.default.removeItem(atPath: old.path) }
        return final
    }

    /// Writes the model alone, in place of the best one so far.
    /// - Returns: its folder.
    func saveBest(
        _ model: TrainableDecoder, _ weights: [String: Tensor]?, _ objective: any TrainingObjective
    ) throws -> String {
        try publish(Self.best) { try writeModel(model, weights, objective, to: $0) }
        return "\(folder)/\(Self.best)"
    }

    /// Has `write` fill a folder of another name, which takes its own when it is complete.
    private func publish(_ name: String, _ write: (_ path: String) throws -> Void) throws {
        let (final, temporary) = ("\(folder)/\(name)", "\(folder)/\(Self.unfinished)\(name)")
        let files = FileManager.default
        try? files.removeItem(atPath: temporary)
        try files.createDirectory(atPath: temporary, withIntermediateDirectories: true)
        do {
            try write(temporary)
            if files.fileExists(atPath: final) { try files.removeItem(atPath: final) }
            try files.moveItem(atPath: temporary, toPath: final)
        } catch {
            try? files.removeItem(atPath: temporary)
            throw error
        }
    }

    private func writeModel(
        _ model: TrainableDecoder, _ weights: [String: Tensor]?, _ objective: any TrainingObjective, to path: String
    ) throws {
        try model.writeHuggingFaceFiles(to: path, values: weights)
        if let heads = objective.heads {
            var writer = SafetensorsWriter()
            var values: [String: Tensor] = [:]
            for (name, parameter) in heads.parameters() {
                writer.add(name, shape: parameter.shape, dtype: .f32)
                values[name] = parameter.value
            }
            try writer.write(to: "\(path)/\(Self.heads)") { try model.operations.backend.toHost([values[$0]!])[0] }
        }
        for (name, contents) in extraFiles + objective.files { try Self.write(contents, to: "\(path)/\(name)") }
    }

    private func writeMoments(
        _ moments: Moments, _ backend: any DifferentiableBackend, to path: String
    ) throws {
        var writer = SafetensorsWriter(metadata: [("step", "\(moments.step)")])
        var tensors: [String: Tensor] = [:]
        for (kind, values) in [("first", moments.first), ("second", moments.second)] {
            for (name, tensor) in values.sorted(by: { $0.key < $1.key }) {
                tensors["\(kind).\(name)"] = tensor
                writer.add("\(kind).\(name)", shape: tensor.shape, dtype: .f32)
            }
        }
        try writer.write(to: path) { try backend.toHost([tensors[$0]!])[0] }
    }

    private static func write(_ contents: [UInt8], to path: String) throws {
        let file = try AtomicFile(path: path)
        try file.write(contents)
        try file.publish()
    }
}
