import ApusTensor

/// Why training stopped.
public enum TrainerError: Error, Equatable, CustomStringConvertible {
    /// A loss or gradient that is not a number.
    case notFinite(step: Int, tensor: String, lastCheckpoint: String?)
    /// A loss far above its recent mean.
    case lossSpike(step: Int, loss: Double, recentMean: Double, threshold: Double, lastCheckpoint: String?)
    /// A checkpoint that does not fit the run.
    case checkpoint(path: String, problem: String)
    /// A folder with the checkpoints of a run.
    case existingRun(folder: String, step: Int)
    /// A vocabulary that the data does not fit.
    case vocabulary(stated: Int, needed: Int, folder: String)
    /// Conversations without anything that turns them into tokens.
    case noTokenizer
    /// A task that the run was given nothing for.
    case task(String)
    /// A task that several ranks cannot share.
    case replicas(task: String, ranks: Int)
    /// A GPU that failed in a step, most often because its memory does not suffice.
    case device(step: Int, CUDAError, lastCheckpoint: String?)
    /// A device that cannot be had.
    case noDevice(device: String, problem: String)
    /// One GPU for several ranks.
    case deviceOfRanks(device: String, ranks: Int)
    /// A changed recipe that the checkpoint's run cannot go on with.
    case changedRecipe(path: String, changes: [String])

    /// One sentence for people.
    public var description: String {
        switch self {
        case .notFinite(let step, let tensor, let last):
            "step \(step): \(tensor) is not finite; \(Self.advice(last))"
        case .lossSpike(let step, let loss, let mean, let threshold, let last):
            "step \(step): the loss rose to \(loss), more than \(threshold) above its recent mean \(mean); "
                + Self.advice(last)
        case .checkpoint(let path, let problem): "\(path): \(problem)"
        case .existingRun(let folder, let step):
            "\(folder) holds a run that has made \(step) steps; go on with --resume, start anew with --restart, or choose "
                + "another folder by training.output"
        case .noTokenizer:
            "data.chat: expected a model to start from (model.from) or data.tokenizer with data.chat_template, found neither"
        case .task(let task):
            "task: expected pretrain or sft, the tasks that need no rewards, found \(task)"
        case .replicas(let task, let ranks):
            "task \(task) on \(ranks) ranks: expected pretrain or sft, whose batches ranks can share, or one process"
        case .device(let step, let error, let last):
            if case .outOfMemory = error {
                "step \(step): \(error); a smaller data.batch_size with more data.accumulation (of policy gradients a smaller "
                    + "policy_gradient.micro_batch_tokens), or training.gradient_checkpointing, needs less; "
                    + Self.advice(last)
            } else {
                "step \(step): \(error); \(Self.advice(last))"
            }
        case .noDevice(let device, let problem): "training.device \(device): \(problem)"
        case .deviceOfRanks(let device, let ranks):
            "training.device \(device) on \(ranks) ranks: expected a GPU for each of them, or one process"
        case .vocabulary(let stated, let needed, let folder):
            "the model's vocabulary: expected at least \(needed), the tokens of \(folder), found \(stated)"
        case .changedRecipe(let path, let changes):
            "\(path): the run was started with another recipe, and cannot go on with these changes: "
                + changes.joined(separator: "; ")
        }
    }

    private static func advice(_ checkpoint: String?) -> String {
        checkpoint.map { "the last good checkpoint is \($0)" } ?? "there is no checkpoint yet"
    }
}
