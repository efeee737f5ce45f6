/// Sequences of one micro-batch, packed one after the other.
public struct PackedBatch: Sendable, Equatable {
    /// Input tokens.
    public var tokens: [Int32]
    /// The token that each should predict; negative: not counted.
    public var targets: [Int32]
    /// First row of each sequence that attention does not cross, and the number of rows at the end.
    public var starts: [Int]

    /// A batch. Precondition: as many targets as tokens; starts ascend from 0 to the number of tokens.
    public init(tokens: [Int32], targets: [Int32], starts: [Int]) {
        precondition(
            tokens.count == targets.count && starts.first == 0 && starts.last == tokens.count, "batch of \(starts)")
        self.tokens = tokens
        self.targets = targets
        self.starts = starts
    }

    /// Rows whose target counts.
    public var countedTargets: Int { targets.reduce(0) { $0 + ($1 >= 0 ? 1 : 0) } }
}

/// What a run learns from and is measured on. Batches depend on their numbers alone, so that a run can go on anywhere.
public protocol BatchSource: Sendable {
    /// The micro-batch `part` of a step (both from 0).
    func batch(step: Int, part: Int) throws -> PackedBatch

    /// Batches of held-out text, the same at every call.
    var evaluationBatches: Int { get }

    /// A batch of held-out text.
    func evaluationBatch(_ index: Int) throws -> PackedBatch
}
