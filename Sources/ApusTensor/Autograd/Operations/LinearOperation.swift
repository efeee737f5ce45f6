/// Rows of a weight applied to one of the inputs of ``DifferentiableOperations/linear(_:_:)``.
public struct LinearPart: Sendable {
    /// Which input it reads.
    public let input: Int
    /// [outputs, inputs].
    public let weight: Parameter
    /// Rows of the weight that are used.
    public let rows: Range<Int>
    /// Added to every row: [outputs of the whole weight].
    public let bias: Parameter?

    /// Whether all rows are used.
    var isWhole: Bool { rows.count == weight.shape[0] }

    /// A product with rows of a weight (all by default).
    public init(_ weight: Parameter, rows: Range<Int>? = nil, bias: Parameter? = nil, input: Int = 0) {
        let all = 0..<weight.shape[0]
        let rows = rows ?? all
        precondition(rows.lowerBound >= 0 && rows.upperBound <= all.upperBound, "rows \(rows) of \(weight.shape)")
        precondition(bias == nil || bias!.shape.count == weight.shape[0], "bias for \(weight.shape)")
        self.input = input
        self.weight = weight
        self.rows = rows
        self.bias = bias
    }
}

extension DifferentiableOperations {
    /// `x W^T + b`.
    /// - Parameter output: float32, or the dtype of activations, which it is unless given.
    public func linear(_ x: Tensor, _ weight: Parameter, bias: Parameter? = nil, output: DType? = nil) -> Tensor {
        linear([x], [[LinearPart(weight, bias: bias)]], output: output)[0]
    }

    /// Several products at once: each output is the concatenation of its parts' products along the last axis.
    ///
    /// Parts of one input whose weights lie side by side (``Parameter/join(_:)``) are one product.
    /// - Parameters:
    ///   - inputs: [rows, inputs] each, with the same rows.
    ///   - outputs: the parts of each output.
    ///   - output: float32, or the dtype of activations, which it is unless given.
    /// - Returns: [rows, sum of the parts' outputs] each.
    public func linear(_ inputs: [Tensor], _ outputs: [[LinearPart]], output: DType? = nil) -> [Tensor] {
        let rows = inputs[0].shape.rank == 0 ? 1 : inputs[0].count / max(inputs[0].shape[-1], 1)
        let narrow = inputs.map {
            $0.dtype == compute ? $0.detached() : backend.converted($0.detached(), to: compute)
        }
        let results = outputs.map { parts -> Tensor in
            let result = backend.makeTensor(
                [rows, parts.reduce(0) { $0 + $1.rows.count }], output ?? activation)
            for run in runs(parts) {
                for (place, columns) in zip(run.parts, run.columnsOfParts) {
                    guard let bias = parts[place].bias else { continue }
                    backend.fill(
                        MatrixView(result, columns: columns), withRow: bias.value.rows(parts[place].rows))
                }
                let x = narrow[run.input]
                precondition(x.shape[-1] == run.weight.shape[1], "linear: \(x.shape) for a weight \(run.weight.shape)")
                backend.multiply(
                    MatrixView(x), MatrixView(run.weight, transposed: true),
                    into: MatrixView(result, columns: run.columns), accumulate: run.hasBias)
            }
            return result
        }
        let all = outputs.flatMap { $0 }
        let edges = inputs.map(\.edge) + all.map(\.weight.edge) + all.map { $0.bias?.edge }
        return record(results, from: edges) { gradients, sink in
            linearPullback(narrow, outputs, gradients, sink)
        }
    }

    private func linearPullback(
        _ inputs: [Tensor], _ outputs: [[LinearPart]], _ gradients: [Tensor?], _ sink: GradientSink
    ) {
        let partCount = outputs.reduce(0) { $0 + $1.count }
        var index = 0
        for (parts, gradient) in zip(outputs, gradients) {
            defer { index += parts.count }
            guard let gradient else { continue }
            let narrow = gradient.dtype == compute ? gradient : backend.converted(gradient, to: compute)
            for run in runs(parts) {
                let d = MatrixView(narrow, columns: run.columns)
                let x = inputs[run.input]
                sink.accumulate(into: run.input, shape: x.shape, dtype: activation) { target, accumulate in
                    backend.multiply(d, MatrixView(run.weight), into: MatrixView(target), accumulate: accumulate)
                }
                let targets = run.parts.map { place in
                    sink.target(
                        of: inputs.count + index + place, shape: parts[place].weight.shape,
                        coversAll: parts[place].isWhole)
                }
                weightGradients(narrow, run, x, targets, parts)
                for (place, columns) in zip(run.parts, run.columnsOfParts) {
                    guard let bias = parts[place].bias else { continue }
                    sink.accumulate(
                        into: inputs.count + partCount + index + place, shape: bias.shape,
                        coversAll: parts[place].isWhole
                    ) { target, adds in
                        backend.columnSums(
                            MatrixView(gradient, columns: columns), to: target.rows(parts[place].rows), adds: adds)
                    }
                }
            }
        }
    }

    /// In one product where the gradients lie side by side, too, and have come as far as each other.
    private func weightGradients(
        _ narrow: Tensor, _ run: PartRun, _ x: Tensor, _ targets: [(tensor: Tensor, accumulates: Bool)?],
        _ parts: [LinearPart]
    ) {
        func multiply(_ columns: Range<Int>, _ target: Tensor, _ accumulates: Bool) {
            backend.multiply(
                MatrixView(narrow, columns: columns, transposed: true), MatrixView(x), into: MatrixView(target),
                accumulate: accumulates)
        }
        let wanted = targets.compactMap { $0 }
        if run.parts.count > 1, wanted.count == targets.count, Set(wanted.map(\.accumulates)).count == 1,
            let all = Tensor.joined(wanted.map(\.tensor))
        {
            multiply(run.columns, all, wanted[0].accumulates)
            return
        }
        for (target, (place, columns)) in zip(targets, zip(run.parts, run.columnsOfParts)) {
            if let target { multiply(columns, target.tensor.rows(parts[place].rows), target.accumulates) }
        }
    }

    /// Parts of an output that one product computes.
    private struct PartRun {
        /// Their places among the output's parts.
        var parts: Range<Int>
        var input: Int
        /// In the dtype of products.
        var weight: Tensor
        var hasBias: Bool
        var columnsOfParts: [Range<Int>]
        /// Of the output.
        var columns: Range<Int> { columnsOfParts[0].lowerBound..<columnsOfParts[columnsOfParts.count - 1].upperBound }
    }

    private func runs(_ parts: [LinearPart]) -> [PartRun] {
        var (result, column) = ([PartRun](), 0)
        for (place, part) in parts.enumerated() {
            let weight = part.weight.values(as: compute, on: backend).rows(part.rows)
            let columns = column..<column + part.rows.count
            column = columns.upperBound
            if var last = result.last, last.input == part.input, last.hasBias == (part.bias != nil), part.isWhole,
                parts[last.parts.lowerBound].isWhole, let joined = Tensor.joined([last.weight, weight])
            {
                last.parts = last.parts.lowerBound..<place + 1
                last.weight = joined
                last.columnsOfParts.append(columns)
                result[result.count - 1] = last
                continue
            }
            result.append(
                PartRun(
                    parts: place..<place + 1, input: part.input, weight: weight, hasBias: part.bias != nil,
                    columnsOfParts: [columns]))
        }
        return result
    }
}
