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
    static let weights = "model.safetensors"
    static let optimizerState = "optimizer.safetensors"
    static let state = "state.json"

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

    /// Writes a checkpoint of the model and its optimiser, and removes those that are no longer kept.
    /// - Returns: its folder.
    public func save(_ model: TrainableDecoder, _ optimizer: AdamW, recentLoss: Double?) throws -> String {
        let name =
            Self.prefix + String(repeating: "0", count: max(0, 8 - "\(optimizer.step)".count)) + "\(optimizer.step)"
        let (final, temporary) = ("\(folder)/\(name)", "\(folder)/\(Self.unfinished)\(name)")
        let files = FileManager.default
        if files.fileExists(atPath: final) { return final }
        try? files.removeItem(atPath: temporary)
        try files.createDirectory(atPath: temporary, withIntermediateDirectories: true)
        do {
            try write(model, optimizer, recentLoss, into: temporary)
            try files.moveItem(atPath: temporary, toPath: final)
        } catch {
            try? files.removeItem(atPath: temporary)
            throw error
        }
        for old in entries.dropLast(keep) { try? files.removeItem(atPath: old.path) }
        return final
    }

    private func write(
        _ model: TrainableDecoder, _ optimizer: AdamW, _ recentLoss: Double?, into path: String
    ) throws {
        try model.writeHuggingFaceFiles(to: path)
        var writer = SafetensorsWriter(metadata: [("step", "\(optimizer.step)")])
        var moments: [String: Tensor] = [:]
        for entry in optimizer.entries {
            moments["first.\(entry.name)"] = entry.firstMoment
            moments["second.\(entry.name)"] = entry.secondMoment
            writer.add("first.\(entry.name)", shape: entry.firstMoment.shape, dtype: .f32)
            writer.add("second.\(entry.name)", shape: entry.secondMoment.shape, dtype: .f32)
        }
        try writer.write(to: "\(path)/\(Self.optimizerState)") { moments[$0]! }
        for (name, contents) in extraFiles { try Self.write(contents, to: "\(path)/\(name)") }
        var state = JSONObject([("step", .integer(Int64(optimizer.step)))])
        // The bits of the number, so that a resumed run goes on exactly.
        if let recentLoss { state["recent_loss_bits"] = JSONValue.string(String(recentLoss.bitPattern, radix: 16)) }
        try Self.write(Array(JSONValue.object(state).serialized().utf8), to: "\(path)/\(Self.state)")
    }

    private static func write(_ contents: [UInt8], to path: String) throws {
        let file = try AtomicFile(path: path)
        try file.write(contents)
        try file.publish()
    }

    /// Reads a checkpoint back: weights into a new model, moments into its optimiser.
    public func load(
        _ entry: Entry, settings: AdamW.Settings, on operations: DifferentiableOperations
    ) throws -> (model: TrainableDecoder, optimizer: AdamW, recentLoss: Double?) {
        let model = try TrainableDecoder(Checkpoints.open(entry.path), on: operations)
        let (step, recentLoss) = try readState(entry)
        let file = try SafetensorsFile(path: "\(entry.path)/\(Self.optimizerState)")
        let optimizer = try AdamW(model, settings, on: operations.backend, step: step) { name, shape in
            func moment(_ kind: String) throws -> Tensor {
                let tensor = try file.tensor(named: "\(kind).\(name)")
                guard tensor.shape == shape, tensor.dtype == .f32 else {
                    throw TrainerError.checkpoint(
                        path: "\(entry.path)/\(Self.optimizerState)",
                        problem: "\(kind).\(name) is \(tensor.dtype) \(tensor.shape), expected f32 \(shape)")
                }
                let copy = Tensor(uninitialized: shape)
                operations.backend.convert(tensor, into: copy)
                return copy
            }
            return (try moment("first"), try moment("second"))
        }
        return (model, optimizer, recentLoss)
    }

    private func readState(_ entry: Entry) throws -> (step: Int, recentLoss: Double?) {
        let path = "\(entry.path)/\(Self.state)"
        let node = try MappedFile(path: path).json()
        let step = try node.child("step", expected: "an integer").int(in: 0...Int.max)
        guard step == entry.step else {
            throw TrainerError.checkpoint(path: path, problem: "step \(step) in a folder for step \(entry.step)")
        }
        guard let bits = try node.optional("recent_loss_bits")?.string() else { return (step, nil) }
        guard let pattern = UInt64(bits, radix: 16) else {
            throw TrainerError.checkpoint(path: path, problem: "recent_loss_bits is \(bits), expected hexadecimal bits")
        }
        return (step, Double(bitPattern: pattern))
    }
}
