/// The rows of a language-model head that one rank has.
package struct VocabularyShard {
    /// The first token of this rank.
    let first: Int
    /// The most tokens that a rank has.
    let widest: Int
    /// Reduces float32 elements over the ranks, in place: to their sum or their largest.
    let reduce: (_ values: Tensor, _ isMaximum: Bool) -> Void

    /// A rank's rows.
    package init(first: Int, widest: Int, reduce: @escaping (_ values: Tensor, _ isMaximum: Bool) -> Void) {
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
    package func crossEntropy(
        _ hidden: Tensor, head: Parameter, targets: [Int32], weights: [Float]? = nil, shard: VocabularyShard
    ) -> (loss: Tensor, logProbabilities: Tensor) {
        let counted = targets.reduce(0) { $0 + ($1 >= 0 ? 1 : 0) }
        let scale = weights ?? [Float](repeating: 1 / Float(max(counted, 1)), count: targets.count)
        precondition(scale.count == targets.count, "\(scale.count) weights for \(targets.count) rows")
        let own = shard.first..<shard.first + head.shape[0]
        let local = targets.map { $0 < 0 ? -2 : own.contains(Int($0)) ? $0 - Int32(shard.first) : -1 }
        let pass = HeadPass(self, hidden, head, local, widest: shard.widest)
        let logProbabilities = backend.makeTensor([targets.count], .f32)
        let scales = backend.copyToDevice(Tensor(scale, shape: [scale.count]))
        for range in pass.blocks {
            pass.run(range) { logits, gradient in
                backend.crossEntropy(
                    ofShard: logits, targets: pass.targets.rows(range), scale: scales.rows(range), gradient: gradient,
                    logProbabilities: logProbabilities.rows(range), reduce: shard.reduce)
            }
        }
        return (pass.loss(backend.weightedSum(scales, logProbabilities, factor: -1)), logProbabilities)
    }
}
