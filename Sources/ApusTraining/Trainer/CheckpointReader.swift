import ApusModels
import ApusTensor
import ApusText

/// Reads a checkpoint back: weights into a new model, heads into those of its objective, moments into its optimiser.
struct CheckpointReader {
    /// Where the run stood.
    let state: TrainerState
    private let path: String

    /// Reads the state.
    /// - Throws: ``TrainerError/checkpoint(path:problem:)``, file errors.
    init(_ entry: CheckpointStore.Entry) throws {
        path = entry.path
        let file = "\(path)/\(CheckpointStore.state)"
        state = try TrainerState(try MappedFile(path: file).json())
        guard state.step == entry.step else {
            throw TrainerError.checkpoint(path: file, problem: "step \(state.step) in a folder for step \(entry.step)")
        }
    }

    /// A model with the checkpoint's weights.
    func model(
        ranks: (DecoderConfiguration) throws -> TensorParallel?, on operations: DifferentiableOperations
    ) throws -> TrainableDecoder {
        let checkpoint = try Checkpoints.open(path)
        return try TrainableDecoder(checkpoint, ranks: ranks(checkpoint.configuration), on: operations)
    }

    /// An optimiser with the checkpoint's moments; the weights of the heads are set to the checkpoint's.
    func optimizer(
        _ slices: [AdamW.Slice], of model: TrainableDecoder, heads: (any Module)?, _ settings: AdamW.Settings
    ) throws -> AdamW {
        let backend = model.operations.backend
        if let heads {
            let file = try SafetensorsFile(path: "\(path)/\(CheckpointStore.heads)")
            for (name, parameter) in heads.parameters() {
                parameter.assign(try tensor(name, parameter.shape, in: file, CheckpointStore.heads), on: backend)
            }
        }
        let file = try SafetensorsFile(path: "\(path)/\(CheckpointStore.optimizerState)")
        return try AdamW(slices, settings, on: backend, step: state.step) { name, shape in
            func saved(_ kind: String, _ name: String, _ shape: Shape) throws -> Tensor {
                try tensor("\(kind).\(name)", shape, in: file, CheckpointStore.optimizerState)
            }
            func moment(_ kind: String) throws -> Tensor {
                backend.copyToDevice(try model.part(of: name) { try saved(kind, $0, $1) } ?? saved(kind, name, shape))
            }
            return (try moment("first"), try moment("second"))
        }
    }

    private func tensor(_ name: String, _ shape: Shape, in file: SafetensorsFile, _ fileName: String) throws -> Tensor {
        let tensor = try file.tensor(named: name)
        guard tensor.shape == shape, tensor.dtype == .f32 else {
            throw TrainerError.checkpoint(
                path: "\(path)/\(fileName)",
                problem: "\(name) is \(tensor.dtype) \(tensor.shape), expected f32 \(shape)")
        }
        return tensor
    }
}
