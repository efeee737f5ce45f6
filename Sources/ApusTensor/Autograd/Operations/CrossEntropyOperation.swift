extension DifferentiableOperations {
    /// Cross-entropy of the language-model head, without a float32 copy of all logits: a block of rows at a time goes
    /// through the head, the softmax, and back.
    ///
    /// - Parameters:
    ///   - hidden: [rows, width], in the dtype of products.
    ///   - head: [vocabulary, width].
    ///   - targets: the token each row should predict; negative: the row does not count.
    ///   - weights: factor on each row's loss; nil for the mean over the rows that count.
    /// - Returns: the sum of -weight x log-probability, and each row's log-probability (natural; 0 where it does not count).
    public func crossEntropy(
        _ hidden: Tensor, head: Parameter, targets: [Int32], weights: [Float]? = nil
    ) -> (loss: Tensor, logProbabilities: [Float]) {
        let (rows, width, vocabulary) = (targets.count, head.shape[1], head.shape[0])
        precondition(hidden.count == rows * width, "\(targets.count) targets for \(hidden.shape)")
        precondition(targets.allSatisfy { $0 < vocabulary }, "a target outside the vocabulary of \(vocabulary)")
        let counted = targets.reduce(0) { $0 + ($1 >= 0 ? 1 : 0) }
        let scale = weights ?? [Float](repeating: 1 / Float(max(counted, 1)), count: rows)
        precondition(scale.count == rows, "\(scale.count) weights for \(rows) rows")
        let edges = [hidden.edge, head.edge]
        let isRecorded = records(edges)
        let x = hidden.dtype == compute ? hidden.detached() : backend.converted(hidden, to: compute)
        let weight = head.values(as: compute, on: backend)
        let inputGradient = isRecorded && edges[0] != nil ? Tensor(uninitialized: [rows, width]) : nil
        let headGradient = isRecorded && edges[1] != nil ? Tensor(uninitialized: head.shape) : nil
        if rows == 0 { headGradient?.fillWithZeros() }

        let block = Self.blockRows(vocabulary)
        var logProbabilities: [Float] = []
        logProbabilities.reserveCapacity(rows)
        for first in stride(from: 0, to: rows, by: block) {
            let range = first..<min(first + block, rows)
            let part = MatrixView(x.reshaped([rows, width]).rows(range))
            let logits = Tensor(uninitialized: [range.count, vocabulary])
            backend.multiply(part, MatrixView(weight, transposed: true), into: MatrixView(logits), accumulate: false)
            let gradient =
                !isRecorded ? nil : compute == .f32 ? logits : Tensor(uninitialized: logits.shape, dtype: compute)
            logProbabilities += backend.crossEntropy(
                logits, targets: targets[range], scale: scale[range], gradient: gradient)
            guard let gradient else { continue }
            if let inputGradient {
                backend.multiply(
                    MatrixView(gradient), MatrixView(weight), into: MatrixView(inputGradient.rows(range)),
                    accumulate: false)
            }
            if let headGradient {
                backend.multiply(
                    MatrixView(gradient, transposed: true), part, into: MatrixView(headGradient), accumulate: first > 0)
            }
        }
        let total = zip(scale, logProbabilities).reduce(0.0) { $0 - Double($1.0) * Double($1.1) }
        let loss = record([Tensor([Float(total)], shape: [1])], from: edges) { gradients, sink in
            guard let factor = gradients[0]?.floats[0] else { return }
            for (input, gradient) in [inputGradient, headGradient].enumerated() {
                guard let gradient else { continue }
                if factor != 1 { backend.scale(gradient, by: factor) }
                sink.give(gradient, to: input)
            }
        }[0]
        return (loss, logProbabilities)
    }

    /// Rows of a block: its logits take about 16 MB, and at least 64 rows keep the products efficient.
    private static func blockRows(_ vocabulary: Int) -> Int {
        max(64, (4 << 20) / max(vocabulary, 1) / 64 * 64)
    }
}
