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
    public func linear(_ x: Tensor, _ weight: Parameter, bias: Parameter? = nil) -> Tensor {
        linear([x], [[LinearPart(weight, bias: bias)]])[0]
    }

    /// Several products at once: each output is the concatenation of its parts' products along the last axis.
    /// - Parameters:
    ///   - inputs: [rows, inputs] each, with the same rows.
    ///   - outputs: the parts of each output.
    /// - Returns: float32 [rows, sum of the parts' outputs] each.
    public func linear(_ inputs: [Tensor], _ outputs: [[LinearPart]]) -> [Tensor] {
        let rows = inputs[0].shape.rank == 0 ? 1 : inputs[0].count / max(inputs[0].shape[-1], 1)
        let narrow = inputs.map { $0.dtype == compute ? $0.detached() : backend.converted($0, to: compute) }
        let results = outputs.map { parts -> Tensor in
            let result = Tensor(uninitialized: [rows, parts.reduce(0) { $0 + $1.rows.count }])
            forEachPart(parts) { part, columns in
                let weight = part.weight.values(as: compute, on: backend).rows(part.rows)
                let x = narrow[part.input]
                precondition(x.shape[-1] == weight.shape[1], "linear: \(x.shape) for a weight \(part.weight.shape)")
                if let bias = part.bias {
                    backend.fill(MatrixView(result, columns: columns), withRow: bias.value.rows(part.rows))
                }
                backend.multiply(
                    MatrixView(x), MatrixView(weight, transposed: true), into: MatrixView(result, columns: columns),
                    accumulate: part.bias != nil)
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
            var place = index
            forEachPart(parts) { part, columns in
                let (weightInput, biasInput) = (inputs.count + place, inputs.count + partCount + place)
                let d = MatrixView(narrow, columns: columns)
                sink.accumulate(into: part.input, shape: inputs[part.input].shape) { target, accumulate in
                    let weight = part.weight.values(as: compute, on: backend).rows(part.rows)
                    backend.multiply(d, MatrixView(weight), into: MatrixView(target), accumulate: accumulate)
                }
                sink.accumulate(into: weightInput, shape: part.weight.shape) { target, accumulate in
                    backend.multiply(
                        d.transposed, MatrixView(inputs[part.input]), into: MatrixView(target.rows(part.rows)),
                        accumulate: accumulate)
                }
                if let bias = part.bias {
                    sink.accumulate(into: biasInput, shape: bias.shape) { target, _ in
                        backend.addColumnSums(MatrixView(gradient, columns: columns), to: target.rows(part.rows))
                    }
                }
                place += 1
            }
        }
    }

    private func forEachPart(_ parts: [LinearPart], _ body: (LinearPart, Range<Int>) -> Void) {
        var column = 0
        for part in parts {
            body(part, column..<(column + part.rows.count))
            column += part.rows.count
        }
    }
}
