// Products, and the operations that are made of them.
extension TensorCheck {
    mutating func checkProducts() throws {
        for input in [DType.f32, .bf16] {
            for output in input == .bf16 ? activationTypes : [.f32] {
                let (m, n, k) = (extent(), extent(), extent())
                for (aTransposed, bTransposed) in [(false, false), (false, true), (true, false)] {
                    let a = tensor(aTransposed ? [k, m] : [m, k], input)
                    let b = tensor(bTransposed ? [n, k] : [k, n], input)
                    let left = ReferenceMatrix(a.tensor.shape[0], a.tensor.shape[1], a.values)
                    let right = ReferenceMatrix(b.tensor.shape[0], b.tensor.shape[1], b.values)
                    let product =
                        ((aTransposed ? left.transposed : left) * (bTransposed ? right.transposed : right)).values
                    // The result is columns of a wider matrix.
                    let gap = Int.random(in: 0...9, using: &random)
                    let whole = tensor([m, n + gap], output)
                    for accumulate in [false, true] {
                        let target = backend.copyToDevice(whole.tensor)
                        backend.multiply(
                            MatrixView(a.tensor, transposed: aTransposed),
                            MatrixView(b.tensor, transposed: bTransposed),
                            into: MatrixView(target, columns: gap..<n + gap), accumulate: accumulate)
                        var expected = whole.values
                        for row in 0..<m {
                            for column in 0..<n {
                                let place = row * (n + gap) + gap + column
                                expected[place] = product[row * n + column] + (accumulate ? expected[place] : 0)
                            }
                        }
                        try compare(
                            "multiply", output == input ? "\(input)" : "\(input) > \(output)",
                            accumulate ? "added" : "written", target, expected)
                    }
                }
            }
        }
    }

    /// Several parts of one input, their weights side by side, with and without biases: outputs and all gradients, twice.
    mutating func checkJoinedProducts() throws {
        for compute in [DType.f32, .bf16] {
            let operations = DifferentiableOperations(on: backend, compute: compute)
            let (rows, width) = (extent(most: 150), 8 * extent(most: 40))
            let extents = (0..<3).map { _ in 8 * extent(most: 20) }
            let hasBias = Bool.random(using: &random)
            let x = tensor([rows, width], compute)
            let weights = extents.map { tensor([$0, width], compute, scale: 0.3) }
            let biases = extents.map { tensor([$0], .f32) }
            let parameters = zip(weights, extents).map { weight, outputs in
                Parameter(tensor(weight.values.map(Float.init), [outputs, width]).tensor)
            }
            let biasParameters = biases.map { Parameter($0.tensor) }
            Parameter.join(parameters)
            let all = extents.reduce(0, +)
            let d = tensor([rows, all], compute)
            let reference = ReferenceMatrix(all, width, weights.flatMap(\.values))
            let input = ReferenceMatrix(rows, width, x.values)
            var expected = (input * reference.transposed).values
            if hasBias {
                let bias = biases.flatMap(\.values)
                for index in expected.indices { expected[index] += bias[index % all] }
            }
            let gradient = ReferenceMatrix(rows, all, d.values)
            let dtypes = "\(compute)"
            for pass in 1...2 {
                let tracked = x.tensor.tracked()
                let output = operations.linear(
                    [tracked],
                    [
                        zip(parameters, biasParameters).map {
                            LinearPart($0, bias: hasBias ? $1 : nil)
                        }
                    ])[0]
                try compare(
                    "linear", dtypes, "output", output.detached(), expected, tolerance: Self.tolerance(compute))
                backward(from: [(output, gradient: d.tensor)], on: backend)
                try compare(
                    "linear", dtypes, "gradient of x", tracked.gradient!, (gradient * reference).values,
                    tolerance: Self.tolerance(compute))
                let weightGradient = (gradient.transposed * input).values
                var first = 0
                for (parameter, outputs) in zip(parameters, extents) {
                    let part = weightGradient[first * width..<(first + outputs) * width]
                    try compare(
                        "linear", dtypes, "gradient of W", parameter.gradient!, part.map { Double(pass) * $0 })
                    if hasBias {
                        let sums = (first..<first + outputs).map { column in
                            Double(pass) * (0..<rows).reduce(0.0) { $0 + gradient[$1, column] }
                        }
                        let bias = biasParameters[parameters.firstIndex { $0 === parameter }!]
                        try compare("linear", dtypes, "gradient of b", bias.gradient!, sums)
                    }
                    first += outputs
                }
            }
        }
    }

    /// The products of inference: weights prepared, activations float32.
    mutating func checkInference() throws {
        for dtype in [DType.f32, .bf16] {
            // Activations may be rounded where weights are bf16.
            let tolerance = dtype == .bf16 ? 1e-2 : 2e-5
            let (rows, inputs, outputs) = (extent(most: 100), 8 * extent(most: 50), extent(most: 200))
            let x = tensor([rows, inputs])
            let w = tensor([outputs, inputs], dtype, scale: 0.2)
            let v = tensor([outputs, inputs], dtype, scale: 0.2)
            let bias = tensor([outputs])
            let (weight, other) = (try backend.prepare(w.tensor), try backend.prepare(v.tensor))
            let input = ReferenceMatrix(rows, inputs, x.values)
            let plain = (input * ReferenceMatrix(outputs, inputs, w.values).transposed).values
            let second = (input * ReferenceMatrix(outputs, inputs, v.values).transposed).values
            let biased = plain.enumerated().map { $1 + bias.values[$0 % outputs] }
            let results = backend.linear(x.tensor, [LinearTerm(weight, bias: bias.tensor), LinearTerm(other)])
            try compare("linear (prepared)", "\(dtype)", "output", results[0], biased, tolerance: tolerance)
            try compare("linear (prepared)", "\(dtype)", "output", results[1], second, tolerance: tolerance)
            let sum = tensor([rows, outputs])
            backend.linear(x.tensor, LinearTerm(weight, bias: bias.tensor), addingTo: sum.tensor)
            try compare(
                "linear (prepared)", "\(dtype)", "added", sum.tensor, zip(sum.values, biased).map(+),
                tolerance: tolerance)
            try compare(
                "linearSwiGLU", "\(dtype)", "output", backend.linearSwiGLU(x.tensor, gate: weight, up: other),
                zip(plain, second).map { Self.silu($0) * $1 }, tolerance: 2 * tolerance)

            let (heads, gap) = (3, 8)
            let whole = tensor([rows, heads, inputs + gap])
            let out = tensor([rows, heads, outputs + 4])
            let terms = [LinearTerm(weight, bias: bias.tensor), LinearTerm(other), LinearTerm(weight)]
            backend.linearPerHead(
                whole.tensor.columns(gap..<gap + inputs), terms, into: out.tensor.columns(0..<outputs))
            var expected = out.values
            for (head, values) in [w.values, v.values, w.values].enumerated() {
                let part = (0..<rows).flatMap { row -> ArraySlice<Double> in
                    let start = (row * heads + head) * (inputs + gap) + gap
                    return whole.values[start..<start + inputs]
                }
                let product =
                    (ReferenceMatrix(rows, inputs, part) * ReferenceMatrix(outputs, inputs, values).transposed).values
                for (index, value) in product.enumerated() {
                    let (row, column) = (index / outputs, index % outputs)
                    expected[(row * heads + head) * (outputs + 4) + column] =
                        value + (head == 0 ? bias.values[column] : 0)
                }
            }
            try compare("linearPerHead", "\(dtype)", "output", out.tensor, expected, tolerance: tolerance)
        }
    }
}
