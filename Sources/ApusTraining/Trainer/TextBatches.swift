/// Windows of prepared text as packed batches.
public struct TextBatches: BatchSource {
    private let train: TokenDataset
    private let validation: TokenDataset?
    private let seed: Int
    private let rows: Int
    private let length: Int
    private let accumulation: Int
    private let acrossDocuments: Bool
    private let evaluationWindows: Int

    /// Batches as a recipe asks for.
    /// - Parameter validation: held-out text; nil where there is none.
    /// - Throws: ``TokenDataError/tooShort(folder:split:expected:found:)`` where there is not one window.
    public init(train: TokenDataset, validation: TokenDataset?, recipe: Recipe) throws {
        self.train = train
        self.validation = validation
        seed = recipe.training.seed
        rows = recipe.data.batchSize
        length = recipe.data.sequenceLength
        accumulation = recipe.data.accumulation
        acrossDocuments = recipe.data.acrossDocuments
        _ = try train.windowCount(length: length)
        let available = try validation?.windowCount(length: length) ?? 0
        evaluationWindows = min(available, recipe.training.evaluateWindows ?? available)
    }

    /// See ``BatchSource/batch(step:part:)``.
    public func batch(step: Int, part: Int) throws -> PackedBatch {
        packed(try train.batch(step: step * accumulation + part, seed: seed, rows: rows, length: length))
    }

    /// See ``BatchSource/evaluationBatches``.
    public var evaluationBatches: Int { (evaluationWindows + rows - 1) / rows }

    /// See ``BatchSource/evaluationBatch(_:)``.
    public func evaluationBatch(_ index: Int) throws -> PackedBatch {
        let range = index * rows..<min((index + 1) * rows, evaluationWindows)
        return packed(try validation!.windows(range, length: length))
    }

    /// The rows side by side. Within documents, each document of a row is a sequence of its own, and the step from one to
    /// the next is not counted.
    private func packed(_ batch: TokenBatch) -> PackedBatch {
        guard !acrossDocuments else {
            return PackedBatch(
                tokens: batch.inputs, targets: batch.targets, starts: (0...batch.rows).map { $0 * batch.length })
        }
        var (targets, starts) = (batch.targets, [Int]())
        for (row, documents) in batch.documentStarts.enumerated() {
            let base = row * batch.length
            starts.append(base)
            for start in documents where start > 0 {
                if start < batch.length { starts.append(base + start) }
                targets[base + start - 1] = -1
            }
        }
        return PackedBatch(tokens: batch.inputs, targets: targets, starts: starts + [batch.rows * batch.length])
    }
}
