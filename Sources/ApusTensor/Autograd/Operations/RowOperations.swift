extension DifferentiableOperations {
    /// Rows of `table` [vocabulary, width] as float32 [tokens.count, width]; zeros for token -1. Precondition: the others are
    /// inside.
    public func embedding(_ tokens: [Int32], table: Parameter) -> Tensor {
        let result = backend.embedding(tokens, table: table.value)
        return record([result], from: [table.edge]) { gradients, sink in
            guard let gradient = gradients[0] else { return }
            sink.accumulate(into: 0, shape: table.shape, coversAll: false) { target, _ in
                backend.embeddingBackward(tokens, gradient: gradient, tableGradient: target)
            }
        }[0]
    }

    /// `x / sqrt(mean(x^2) + epsilon) * weight` over the last axis, in the dtype of products unless another is given.
    public func rmsNorm(_ x: Tensor, weight: Parameter, epsilon: Float, output: DType? = nil) -> Tensor {
        let (_, normalized, inverse) = backend.rmsNormForward(
            x, adding: nil, weight: weight.value, epsilon: epsilon, output: output ?? compute)
        return record([normalized], from: [x.edge, weight.edge]) { gradients, sink in
            guard let gradient = gradients[0] else { return }
            sink.combine(into: 0, shape: x.shape) { target, base in
                normBackward(x, weight, inverse, gradient, base: base, into: target, sink, weightInput: 1)
            }
            if !sink.wants(0) {
                normBackward(
                    x, weight, inverse, gradient, base: nil, into: backend.makeTensor(x.shape, .f32), sink,
                    weightInput: 1)
            }
        }[0]
    }

    /// The step between sublayers: `sum = residual + x`, and its RMSNorm in the dtype of products.
    public func addRMSNorm(
        _ x: Tensor, to residual: Tensor, weight: Parameter, epsilon: Float
    ) -> (sum: Tensor, normalized: Tensor) {
        let (sum, normalized, inverse) = backend.rmsNormForward(
            residual, adding: x, weight: weight.value, epsilon: epsilon, output: compute)
        let xType = x.dtype
        let results = record([sum, normalized], from: [residual.edge, x.edge, weight.edge]) { gradients, sink in
            // The sum's gradient is the same for both addends: it is formed once and shared. What made x may read it in its
            // own dtype: then that is written along.
            var total = gradients[0]
            var narrow: Tensor?
            if let gradient = gradients[1] {
                let result = backend.makeTensor(sum.shape, .f32)
                narrow = xType == .f32 ? nil : backend.makeTensor(sum.shape, xType)
                let base = total.map { $0.dtype == .f32 ? $0 : backend.converted($0, to: .f32) }
                normBackward(
                    sum, weight, inverse, gradient, base: base, into: result, narrow: narrow, sink, weightInput: 2)
                total = result
            }
            if let total {
                sink.pass(total, to: 0)
                sink.pass(narrow ?? total, to: 1)
            }
        }
        return (results[0], results[1])
    }

    /// The gradient of a norm's input goes to `result`, that of its weight to the sink, or nowhere if it is frozen.
    private func normBackward(
        _ x: Tensor, _ weight: Parameter, _ inverse: Tensor, _ gradient: Tensor, base: Tensor?, into result: Tensor,
        narrow: Tensor? = nil, _ sink: GradientSink, weightInput: Int
    ) {
        let target = sink.target(of: weightInput, shape: weight.shape)
        backend.rmsNormBackward(
            x, weight: weight.value, inverse: inverse, gradient: gradient, base: base, into: result, narrow: narrow,
            weightGradient: target?.tensor, adds: target?.accumulates ?? false)
    }

    /// `silu(gate) * up` in the dtype of products.
    public func swiglu(gate: Tensor, up: Tensor) -> Tensor {
        precondition(gate.shape == up.shape, "swiglu: \(gate.shape) and \(up.shape)")
        let result = backend.swigluForward(gate: MatrixView(gate), up: MatrixView(up), output: compute)
        return record([result], from: [gate.edge, up.edge]) { gradients, sink in
            guard let gradient = gradients[0] else { return }
            let dGate = backend.makeTensor(gate.shape, compute)
            let dUp = backend.makeTensor(up.shape, compute)
            backend.swigluBackward(
                gate: MatrixView(gate), up: MatrixView(up), gradient: gradient, gateGradient: MatrixView(dGate),
                upGradient: MatrixView(dUp))
            sink.give(dGate, to: 0)
            sink.give(dUp, to: 1)
        }[0]
    }

    /// As ``swiglu(gate:up:)``, of rows that hold the gate in their first half and up in their second.
    public func swiglu(halves: Tensor) -> Tensor {
        let width = halves.shape[-1] / 2
        precondition(2 * width == halves.shape[-1], "swiglu: the halves of \(halves.shape)")
        func views(_ x: Tensor) -> (MatrixView, MatrixView) {
            (MatrixView(x, columns: 0..<width), MatrixView(x, columns: width..<2 * width))
        }
        let (gate, up) = views(halves.detached())
        let result = backend.swigluForward(gate: gate, up: up, output: compute)
        return record([result], from: [halves.edge]) { gradients, sink in
            guard let gradient = gradients[0] else { return }
            let both = backend.makeTensor(halves.shape, compute)
            let (dGate, dUp) = views(both)
            backend.swigluBackward(gate: gate, up: up, gradient: gradient, gateGradient: dGate, upGradient: dUp)
            sink.give(both, to: 0)
        }[0]
    }

    /// `a + b`.
    public func add(_ a: Tensor, _ b: Tensor) -> Tensor {
        precondition(a.shape == b.shape, "add: \(a.shape) and \(b.shape)")
        let sum = backend.converted(a.detached(), to: .f32)
        backend.add(b.detached(), to: sum)
        return record([sum], from: [a.edge, b.edge]) { gradients, sink in
            guard let gradient = gradients[0] else { return }
            sink.pass(gradient, to: 0)
            sink.pass(gradient, to: 1)
        }[0]
    }
}

extension DifferentiableOperations {
    /// The same elements under another shape of the same count.
    public func reshape(_ x: Tensor, _ shape: Shape) -> Tensor {
        let original = x.shape
        return record([x.detached().reshaped(shape)], from: [x.edge]) { gradients, sink in
            if let gradient = gradients[0] { sink.pass(gradient.reshaped(original), to: 0) }
        }[0]
    }

    /// Rows of a [rows, width] tensor, in the order asked for; a row may be asked for twice.
    public func rows(_ x: Tensor, _ indices: [Int]) -> Tensor {
        let shape = x.shape
        let numbers = indices.map { Int32($0) }
        return record([backend.gatherRows(x.detached(), numbers)], from: [x.edge]) { gradients, sink in
            guard let gradient = gradients[0] else { return }
            let whole = backend.makeTensor(shape, .f32)
            whole.fillWithZeros()
            backend.embeddingBackward(
                numbers, gradient: gradient.dtype == .f32 ? gradient : backend.converted(gradient, to: .f32),
                tableGradient: whole)
            sink.give(whole, to: 0)
        }[0]
    }

    /// A scalar that the caller has computed from the elements of tensors, with its gradients.
    /// - Parameter inputs: what it was computed from, each with the scalar's gradient, float32 of the same shape.
    public func scalar(_ value: Float, of inputs: [(tensor: Tensor, gradient: Tensor)]) -> Tensor {
        for input in inputs {
            precondition(
                input.gradient.shape == input.tensor.shape && input.gradient.dtype == .f32,
                "a gradient \(input.gradient.shape) of \(input.tensor.shape)")
        }
        let gradientsOfInputs = inputs.map(\.gradient)
        return record([Tensor([value], shape: [1])], from: inputs.map(\.tensor.edge)) { gradients, sink in
            guard let factor = gradients[0]?.floats[0] else { return }
            for (input, gradient) in gradientsOfInputs.enumerated() where sink.wants(input) {
                let scaled = backend.converted(gradient, to: .f32)
                if factor != 1 { backend.scale(scaled, by: factor) }
                sink.give(scaled, to: input)
            }
        }[0]
    }
}
