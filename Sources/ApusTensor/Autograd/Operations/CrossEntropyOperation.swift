/// A loss of the log-probabilities of rows' targets, with its gradient: what the losses of policy gradients are.
public struct LogProbabilityLoss {
    /// Whether a row's part of the loss depends on that row alone, so that rows can be done in blocks; otherwise `evaluate`
    /// is called once, with all rows.
    public var isRowwise: Bool
    /// The loss of some rows, and its derivative by each of their log-probabilities.
    public var evaluate: (_ rows: Range<Int>, _ logProbabilities: [Float]) -> (value: Double, derivatives: [Float])

    /// A loss.
    public init(
        isRowwise: Bool,
        evaluate: @escaping (_ rows: Range<Int>, _ logProbabilities: [Float]) -> (value: Double, derivatives: [Float])
    ) {
        self.isRowwise = isRowwise
        self.evaluate = evaluate
    }
}

extension DifferentiableOperations {
    /// Cross-entropy of the language-model head, without a float32 copy of all logits: a block of rows at a time goes
    /// through the head, the softmax, and back.
    ///
    /// - Parameters:
    ///   - hidden: [rows, width], in the dtype of products.
    ///   - head: [vocabulary, width].
    ///   - targets: the token each row should predict; negative: the row does not count.
    ///   - weights: factor on each row's loss; nil for the mean over the rows that count.
    /// - Returns: the sum of -weight x log-probability, and each row's log-probability (natural; 0 where it does not count),
    ///   both float32 where the backend has its tensors.
    public func crossEntropy(
        _ hidden: Tensor, head: Parameter, targets: [Int32], weights: [Float]? = nil
    ) -> (loss: Tensor, logProbabilities: Tensor) {
        let counted = targets.reduce(0) { $0 + ($1 >= 0 ? 1 : 0) }
        let scale = weights ?? [Float](repeating: 1 / Float(max(counted, 1)), count: targets.count)
        precondition(scale.count == targets.count, "\(scale.count) weights for \(targets.count) rows")
        let pass = HeadPass(self, hidden, head, targets)
        let logProbabilities = backend.makeTensor([targets.count], .f32)
        let scales = backend.copyToDevice(Tensor(scale, shape: [scale.count]))
        for range in pass.blocks {
            pass.run(range) { logits, gradient in
                backend.crossEntropy(
                    logits, targets: pass.targets.rows(range), scale: scales.rows(range), gradient: gradient,
                    logProbabilities: logProbabilities.rows(range))
            }
        }
        return (pass.loss(backend.weightedSum(scales, logProbabilities, factor: -1)), logProbabilities)
    }

    /// A loss of the targets' log-probabilities under the language-model head, in blocks as
    /// ``crossEntropy(_:head:targets:weights:)``. Where the loss is not row by row, rows that take more than one block go
    /// through the head twice.
    /// The loss is computed in main memory: on a GPU every block is waited for.
    /// - Parameter targets: the token each row should predict; negative: the row does not count (log-probability 0).
    /// - Returns: the loss, and each row's log-probability.
    public func crossEntropy(
        _ hidden: Tensor, head: Parameter, targets: [Int32], _ loss: LogProbabilityLoss
    ) -> (loss: Tensor, logProbabilities: [Float]) {
        let pass = HeadPass(self, hidden, head, targets)
        func logProbabilities(
            _ logits: Tensor, _ range: Range<Int>, scale: [Float]? = nil, gradient: Tensor? = nil
        ) -> Tensor {
            let result = backend.makeTensor([range.count], .f32)
            let scale = scale ?? [Float](repeating: 0, count: range.count)
            backend.crossEntropy(
                logits, targets: pass.targets.rows(range),
                scale: backend.copyToDevice(Tensor(scale, shape: [range.count])), gradient: gradient,
                logProbabilities: result)
            return result
        }
        func differentiate(_ logits: Tensor, _ range: Range<Int>, _ derivatives: [Float], _ gradient: Tensor?) {
            guard let gradient else { return }
            _ = logProbabilities(logits, range, scale: derivatives.map { -$0 }, gradient: gradient)
        }
        var total = 0.0
        var all: [Float] = []
        if loss.isRowwise || pass.blocks.count <= 1 {
            for range in pass.blocks {
                pass.run(range) { logits, gradient in
                    let found = logProbabilities(logits, range).floats
                    let (value, derivatives) = loss.evaluate(range, found)
                    total += value
                    all += found
                    differentiate(logits, range, derivatives, gradient)
                }
            }
        } else {
            for range in pass.blocks { all += logProbabilities(pass.logits(range), range).floats }
            let (value, derivatives) = loss.evaluate(0..<targets.count, all)
            total = value
            for range in pass.blocks where pass.isRecorded {
                pass.run(range) { differentiate($0, range, Array(derivatives[range]), $1) }
            }
        }
        return (pass.loss(Tensor([Float(total)], shape: [1])), all)
    }
}

/// One way through the language-model head and back, block by block.
struct HeadPass {
    let operations: DifferentiableOperations
    let blocks: [Range<Int>]
    let isRecorded: Bool
    /// The targets where the backend has its tensors.
    let targets: Tensor
    private let x: Tensor
    private let weight: Tensor
    private let edges: [GradientEdge?]
    private let inputGradient: Tensor?
    private let headGradient: Tensor?

    /// - Parameter widest: the most rows that a rank's head has; nil for the head's own.
    init(
        _ operations: DifferentiableOperations, _ hidden: Tensor, _ head: Parameter, _ targets: [Int32],
        widest: Int? = nil
    ) {
        let (rows, width, vocabulary) = (targets.count, head.shape[1], head.shape[0])
        precondition(hidden.count == rows * width, "\(targets.count) targets for \(hidden.shape)")
        precondition(targets.allSatisfy { $0 < vocabulary }, "a target outside the vocabulary of \(vocabulary)")
        let backend = operations.backend
        self.operations = operations
        self.targets = backend.copyToDevice(Tensor(targets))
        edges = [hidden.edge, head.edge]
        isRecorded = records(edges)
        let narrow =
            hidden.dtype == operations.compute
            ? hidden.detached() : backend.converted(hidden.detached(), to: operations.compute)
        x = narrow.reshaped([rows, width])
        weight = head.values(as: operations.compute, on: backend)
        inputGradient = isRecorded && edges[0] != nil ? backend.makeTensor([rows, width], operations.activation) : nil
        headGradient = isRecorded && edges[1] != nil ? backend.makeTensor(head.shape, .f32) : nil
        if rows == 0 { headGradient?.fillWithZeros() }
        // As many blocks as the backend's size asks for, of nearly the same size.
        let most = backend.headRows(vocabulary: widest ?? vocabulary)
        let count = max(1, (rows + most - 1) / most)
        let block = min(most, ((rows + count - 1) / count + 63) / 64 * 64)
        blocks = stride(from: 0, to: rows, by: block).map { $0..<min($0 + block, rows) }
    }

    /// The logits of a block.
    func logits(_ range: Range<Int>) -> Tensor {
        let logits = operations.backend.makeTensor([range.count, weight.shape[0]], operations.activation)
        operations.backend.multiply(
            MatrixView(x.rows(range)), MatrixView(weight, transposed: true), into: MatrixView(logits),
            accumulate: false)
        return logits
    }

    /// Has `body` write the gradient of a block's logits, where it is asked for (it may be the logits), and takes it back
    /// through the head.
    func run(_ range: Range<Int>, _ body: (_ logits: Tensor, _ gradient: Tensor?) -> Void) {
        let backend = operations.backend
        let logits = logits(range)
        guard isRecorded else { return body(logits, nil) }
        let gradient =
            logits.dtype == operations.compute ? logits : backend.makeTensor(logits.shape, operations.compute)
        body(logits, gradient)
        if let inputGradient {
            backend.multiply(
                MatrixView(gradient), MatrixView(weight), into: MatrixView(inputGradient.rows(range)),
                accumulate: false)
        }
        if let headGradient {
            backend.multiply(
                MatrixView(gradient, transposed: true), MatrixView(x.rows(range)), into: MatrixView(headGradient),
                accumulate: range.lowerBound > 0)
        }
    }

    /// The loss, recorded. All blocks have run.
    func loss(_ value: Tensor) -> Tensor {
        record([value], from: edges) { [inputGradient, headGradient, operations] in
            guard let factor = $0[0]?.floats[0] else { return }
            for (input, gradient) in [inputGradient, headGradient].enumerated() {
                guard let gradient else { continue }
                if factor != 1 { operations.backend.scale(gradient, by: factor) }
                $1.give(gradient, to: input)
            }
        }[0]
    }
}
