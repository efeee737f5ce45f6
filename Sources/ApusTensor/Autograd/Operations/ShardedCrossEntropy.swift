#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// The rows of a language-model head that one rank has.
package struct VocabularyShard: Sendable {
    /// The first token of this rank.
    let first: Int
    /// The most tokens that a rank has.
    let widest: Int
    /// Reduces float32 elements over the ranks, in place: to their sum or their largest.
    let reduce: @Sendable (_ values: Tensor, _ isMaximum: Bool) -> Void

    /// A rank's rows.
    package init(first: Int, widest: Int, reduce: @escaping @Sendable (_ values: Tensor, _ isMaximum: Bool) -> Void) {
        self.first = first
        self.widest = widest
        self.reduce = reduce
    }
}

extension DifferentiableOperations {
    /// As ``crossEntropy(_:head:targets:weights:)``, for a head whose rows are shared among ranks: three floats a row are
    /// reduced over them, never the logits.
    /// - Parameters:
    ///   - hidden: the same on all ranks; its gradient is this rank's part of a sum over the ranks.
    ///   - head: this rank's rows.
    ///   - targets: of the whole vocabulary.
    ///
    /// Precondition: the backend's tensors lie in main memory.
    package func crossEntropy(
        _ hidden: Tensor, head: Parameter, targets: [Int32], weights: [Float]? = nil, shard: VocabularyShard
    ) -> (loss: Tensor, logProbabilities: Tensor) {
        let counted = targets.reduce(0) { $0 + ($1 >= 0 ? 1 : 0) }
        let scale = weights ?? [Float](repeating: 1 / Float(max(counted, 1)), count: targets.count)
        let own = shard.first..<shard.first + head.shape[0]
        let local = targets.map { $0 >= 0 && own.contains(Int($0)) ? $0 - Int32(shard.first) : -1 }
        let pass = HeadPass(self, hidden, head, local, widest: shard.widest)
        var logProbabilities: [Float] = []
        for range in pass.blocks {
            pass.run(range) { logits, gradient in
                let rows = ShardedRows(
                    logits: logits, targets: Array(local[range]), counts: targets[range].map { $0 >= 0 },
                    scale: Array(scale[range]))
                logProbabilities += rows.logProbabilities(shard.reduce, backend)
                guard let gradient else { return }
                rows.differentiate(backend)
                if gradient.dtype != .f32 { backend.convert(logits, into: gradient) }
            }
        }
        let total = zip(scale, logProbabilities).reduce(0.0) { $0 - Double($1.0) * Double($1.1) }
        return (
            pass.loss(Tensor([Float(total)], shape: [1])),
            Tensor(logProbabilities, shape: [logProbabilities.count])
        )
    }
}

/// A block of rows of logits, of which this rank has some columns.
private struct ShardedRows {
    /// Float32 [rows, own columns].
    let logits: Tensor
    /// The own column of each row's target; negative where another rank has it.
    let targets: [Int32]
    /// Whether a row counts.
    let counts: [Bool]
    let scale: [Float]
    /// Each row's largest logit over all ranks, and the sum of the powers of the rest.
    private let statistics: Tensor

    init(logits: Tensor, targets: [Int32], counts: [Bool], scale: [Float]) {
        self.logits = logits
        self.targets = targets
        self.counts = counts
        self.scale = scale
        statistics = Tensor(uninitialized: [3, targets.count])
    }

    private func row(_ index: Int) -> UnsafeMutablePointer<Float> {
        logits.pointer(as: Float.self) + index * logits.shape[1]
    }

    private var largest: UnsafeMutablePointer<Float> { statistics.pointer(as: Float.self) }
    private var sums: UnsafeMutablePointer<Float> { largest + targets.count }
    private var chosen: UnsafeMutablePointer<Float> { largest + 2 * targets.count }

    /// Each row's log-probability of its target; the logits become e to the power of their distance from the largest.
    func logProbabilities(
        _ reduce: (_ values: Tensor, _ isMaximum: Bool) -> Void, _ backend: any DifferentiableBackend
    ) -> [Float] {
        let (rows, width) = (targets.count, logits.shape[1])
        backend.concurrently(rows) { index in
            var most = -Float.infinity
            for column in 0..<width { most = max(most, row(index)[column]) }
            largest[index] = most
        }
        reduce(statistics.rows(0..<1), true)
        backend.concurrently(rows) { index in
            let (values, most) = (row(index), largest[index])
            chosen[index] = targets[index] >= 0 ? values[Int(targets[index])] - most : 0
            var sum = 0.0
            for column in 0..<width {
                values[column] = expf(values[column] - most)
                sum += Double(values[column])
            }
            sums[index] = Float(sum)
        }
        reduce(statistics.rows(1..<3), false)
        return (0..<rows).map { counts[$0] ? chosen[$0] - log(sums[$0]) : 0 }
    }

    /// The powers become the gradient: scale x (probability - 1 at the target).
    func differentiate(_ backend: any DifferentiableBackend) {
        let width = logits.shape[1]
        backend.concurrently(targets.count) { index in
            let values = row(index)
            let factor = counts[index] ? scale[index] / sums[index] : 0
            for column in 0..<width { values[column] *= factor }
            if counts[index], targets[index] >= 0 { values[Int(targets[index])] -= scale[index] }
        }
    }
}
