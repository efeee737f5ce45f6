#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

// Operations on elements and rows.
extension TensorCheck {
    static func logistic(_ x: Double) -> Double { 1 / (1 + exp(-x)) }
    static func silu(_ x: Double) -> Double { x * logistic(x) }

    mutating func checkConversions() throws {
        let shape: Shape = [extent(), extent()]
        let x = tensor(shape)
        let rounded = x.values.map { Self.value(Self.bf16(Float($0))) }
        try compare("convert", "f32 > bf16", "output", backend.converted(x.tensor, to: .bf16), rounded, tolerance: 0)
        let narrow = tensor(shape, .bf16)
        try compare(
            "convert", "bf16 > f32", "output", backend.converted(narrow.tensor, to: .f32), narrow.values, tolerance: 0)

        for (from, to) in [(DType.f32, DType.f32), (.bf16, .f32)] + (activationTypes.count > 1 ? [(.bf16, .bf16)] : [])
        {
            let (a, b) = (tensor(shape, from), tensor(shape, to))
            backend.add(a.tensor, to: b.tensor)
            try compare(
                "add", from == to ? "\(from)" : "\(from) > \(to)", "output", b.tensor, zip(a.values, b.values).map(+))
        }
        for dtype in activationTypes {
            let a = tensor(shape, dtype)
            backend.scale(a.tensor, by: 0.3)
            try compare("scale", "\(dtype)", "output", a.tensor, a.values.map { $0 * Double(Float(0.3)) })
        }
        let (rows, width) = (shape[0], shape[1])
        for dtype in activationTypes {
            let (whole, row) = (tensor([rows, width + 5], dtype), tensor([width]))
            backend.fill(MatrixView(whole.tensor, columns: 3..<3 + width), withRow: row.tensor)
            let expected = whole.values.enumerated().map { index, value in
                let column = index % (width + 5) - 3
                return column >= 0 && column < width ? row.values[column] : value
            }
            try compare("fill", "\(dtype)", "output", whole.tensor, expected)
        }
    }

    mutating func checkNorms() throws {
        let epsilon: Float = 1e-3
        for (xType, addendType) in [(DType.f32, DType?.none), (.f32, .f32)]
            + (activationTypes.count > 1 ? [(.f32, .bf16), (.bf16, .none)] : [])
        {
            for output in [DType.f32, .bf16] {
                let (rows, width) = (extent(), extent(most: 1100))
                let x = tensor([rows, width], xType)
                let addend = addendType.map { tensor([rows, width], $0) }
                let weight = tensor([width])
                let (sum, y, inverse) = backend.rmsNormForward(
                    x.tensor, adding: addend?.tensor, weight: weight.tensor, epsilon: epsilon, output: output)
                let total = addend.map { zip(x.values, $0.values).map(+) } ?? x.values
                let inverses = (0..<rows).map { row in
                    let squares = total[row * width..<(row + 1) * width].reduce(0.0) { $0 + $1 * $1 }
                    return 1 / (squares / Double(width) + Double(epsilon)).squareRoot()
                }
                let dtypes = "\(xType)\(addendType.map { " + \($0)" } ?? "") > \(output)"
                try compare("rmsNorm", dtypes, "sum", sum, total)
                try compare("rmsNorm", dtypes, "inverse", inverse, inverses)
                let expected = total.indices.map { total[$0] * inverses[$0 / width] * weight.values[$0 % width] }
                try compare("rmsNorm", dtypes, "output", y, expected)
                guard addend == nil || xType == .f32 else { continue }
                // One element is its own mean: its gradient is what rounding leaves.
                if width > 1 { try checkNormBackward(sum, total, weight, inverse, inverses, width) }
            }
        }
        let (tokens, groups, width, gap) = (extent(most: 30), 3, extent(most: 300), 5)
        let x = tensor([tokens, groups, width + gap])
        let weight = tensor([groups, width])
        var expected: [Double] = []
        for row in 0..<tokens * groups {
            let part = x.values[row * (width + gap) + gap..<(row + 1) * (width + gap)]
            let inverse = 1 / (part.reduce(0.0) { $0 + $1 * $1 } / Double(width) + Double(epsilon)).squareRoot()
            expected += part.enumerated().map { $1 * inverse * weight.values[row % groups * width + $0] }
        }
        try compare(
            "rmsNorm of groups", "f32", "output",
            backend.rmsNorm(x.tensor.columns(gap..<gap + width), weight: weight.tensor, epsilon: epsilon), expected)
        try checkLayerNorm(epsilon)
    }

    private mutating func checkNormBackward(
        _ x: Tensor, _ values: [Double], _ weight: (tensor: Tensor, values: [Double]), _ inverse: Tensor,
        _ inverses: [Double], _ width: Int
    ) throws {
        let rows = inverses.count
        for dtype in activationTypes {
            let d = tensor([rows, width], dtype)
            let base = tensor([rows, width])
            let before = tensor([width])
            let result = backend.makeTensor([rows, width], .f32)
            let narrow = backend.makeTensor([rows, width], .bf16)
            let adds = Bool.random(using: &random)
            backend.rmsNormBackward(
                x, weight: weight.tensor, inverse: inverse, gradient: d.tensor, base: base.tensor, into: result,
                narrow: narrow, weightGradient: before.tensor, adds: adds)
            var (dx, dw) = (base.values, adds ? before.values : [Double](repeating: 0, count: width))
            for row in 0..<rows {
                let range = row * width..<(row + 1) * width
                let mean =
                    range.reduce(0.0) { $0 + d.values[$1] * weight.values[$1 - range.lowerBound] * values[$1] }
                    / Double(width)
                for index in range {
                    let g = d.values[index] * weight.values[index - range.lowerBound]
                    dx[index] += inverses[row] * (g - values[index] * inverses[row] * inverses[row] * mean)
                    dw[index - range.lowerBound] += d.values[index] * values[index] * inverses[row]
                }
            }
            let dtypes = "\(x.dtype), \(dtype)"
            try compare("rmsNorm backward", dtypes, "gradient of x", result, dx)
            try compare("rmsNorm backward", dtypes, "in bf16", narrow, dx)
            try compare("rmsNorm backward", dtypes, "gradient of w", before.tensor, dw, about: before.values)
        }
    }

    private mutating func checkLayerNorm(_ epsilon: Float) throws {
        let (rows, width) = (extent(), 1 + extent(most: 600))
        let x = tensor([rows, width])
        let (weight, bias) = (tensor([width]), tensor([width]))
        var expected: [Double] = []
        for row in 0..<rows {
            let part = x.values[row * width..<(row + 1) * width]
            let mean = part.reduce(0, +) / Double(width)
            let variance = part.reduce(0.0) { $0 + ($1 - mean) * ($1 - mean) } / Double(width)
            expected += part.enumerated().map {
                ($1 - mean) / (variance + Double(epsilon)).squareRoot() * weight.values[$0] + bias.values[$0]
            }
        }
        try compare(
            "layerNorm", "f32", "output",
            backend.layerNorm(x.tensor, weight: weight.tensor, bias: bias.tensor, epsilon: epsilon), expected)
    }

    mutating func checkSwiGLU() throws {
        for input in activationTypes {
            for output in input == .bf16 ? [DType.bf16] : [.f32, .bf16] {
                let (rows, width) = (extent(), extent())
                let both = tensor([rows, 2 * width], input, scale: 2)
                func views(_ x: Tensor) -> (MatrixView, MatrixView) {
                    (MatrixView(x, columns: 0..<width), MatrixView(x, columns: width..<2 * width))
                }
                let (gate, up) = views(both.tensor)
                let places = (0..<rows * width).map { ($0 / width * 2 * width + $0 % width) }
                let dtypes = "\(input) > \(output)"
                try compare(
                    "swiglu", dtypes, "output", backend.swigluForward(gate: gate, up: up, output: output),
                    places.map { Self.silu(both.values[$0]) * both.values[$0 + width] })
                let d = tensor([rows, width], input == .bf16 ? output : .f32)
                let gradients = backend.makeTensor([rows, 2 * width], output)
                let (dGate, dUp) = views(gradients)
                backend.swigluBackward(gate: gate, up: up, gradient: d.tensor, gateGradient: dGate, upGradient: dUp)
                var expected = [Double](repeating: 0, count: both.values.count)
                for (index, place) in places.enumerated() {
                    let (g, u) = (both.values[place], both.values[place + width])
                    let s = Self.logistic(g)
                    expected[place] = d.values[index] * u * s * (1 + g * (1 - s))
                    expected[place + width] = d.values[index] * g * s
                }
                try compare("swiglu", dtypes, "gradients", gradients, expected)
            }
        }
    }

    mutating func checkActivations() throws {
        let formulas: [(ActivationFunction, (Double) -> Double)] = [
            (.silu, Self.silu), (.gelu, { 0.5 * $0 * erfc(-$0 / 2.0.squareRoot()) }),
            (.geluTanh, { 0.5 * $0 * (1 + tanh((2 / Double.pi).squareRoot() * ($0 + 0.044715 * $0 * $0 * $0))) }),
        ]
        for (function, formula) in formulas {
            let shape: Shape = [extent(most: 60), extent()]
            let (x, factor) = (tensor(shape, scale: 2), tensor(shape))
            backend.activateInPlace(x.tensor, function, times: factor.tensor)
            try compare(
                "\(function)", "f32", "output", x.tensor, zip(x.values, factor.values).map { formula($0) * $1 })
        }
    }

    mutating func checkRows() throws {
        let (vocabulary, width, count) = (extent(), extent(most: 600), extent())
        let tokens = (0..<count).map { _ in Int32.random(in: 0..<Int32(vocabulary), using: &random) }
        let places = tokens.flatMap { (Int($0) * width)..<(Int($0) + 1) * width }
        // Some tokens that another rank has.
        let some = tokens.map { Int.random(in: 0..<4, using: &random) == 0 ? -1 : $0 }
        for dtype in [DType.f32, .bf16] {
            let table = tensor([vocabulary, width], dtype)
            let expected = places.map { table.values[$0] }
            try compare(
                "embedding", "\(dtype) > f32", "output of a part", backend.embedding(some, table: table.tensor),
                zip(places, 0...).map { some[$1 / width] < 0 ? 0 : table.values[$0] }, tolerance: 0)
            try compare(
                "embedding", "\(dtype) > f32", "output", backend.embedding(tokens, table: table.tensor), expected,
                tolerance: 0)
            try compare(
                "gatherRows", "\(dtype)", "output", backend.gatherRows(table.tensor, tokens), expected, tolerance: 0)
        }
        for dtype in activationTypes {
            let (d, table) = (tensor([count, width], dtype), tensor([vocabulary, width]))
            backend.embeddingBackward(some, gradient: d.tensor, tableGradient: table.tensor)
            var expected = table.values
            for (index, place) in places.enumerated() where some[index / width] >= 0 {
                expected[place] += d.values[index]
            }
            try compare("embedding", "\(dtype)", "gradient of table", table.tensor, expected)
        }
    }

    mutating func checkCrossEntropy() throws {
        for dtype in activationTypes {
            for gradientType in dtype == .bf16 ? [DType.bf16] : [.f32, .bf16] {
                let (rows, width) = (extent(most: 60), 1 + extent(most: 1100))
                let logits = tensor([rows, width], dtype, scale: 3)
                let targets = (0..<rows).map { _ in Int32.random(in: -1..<Int32(width), using: &random) }
                let scale = tensor([rows])
                let result = backend.makeTensor([rows], .f32)
                let gradient =
                    gradientType == dtype
                    ? backend.copyToDevice(logits.tensor) : backend.makeTensor([rows, width], gradientType)
                backend.crossEntropy(
                    gradientType == dtype ? gradient : logits.tensor, targets: backend.copyToDevice(Tensor(targets)),
                    scale: scale.tensor, gradient: gradient, logProbabilities: result)
                var (expected, slopes) = ([Double](), [Double]())
                for (row, target) in targets.enumerated() {
                    let part = logits.values[row * width..<(row + 1) * width]
                    let most = part.max()!
                    let sum = part.reduce(0.0) { $0 + exp($1 - most) }
                    expected.append(target < 0 ? 0 : part[row * width + Int(target)] - most - log(sum))
                    slopes += part.enumerated().map { column, x in
                        target < 0 ? 0 : scale.values[row] * (exp(x - most) / sum - (column == Int(target) ? 1 : 0))
                    }
                }
                let dtypes = "\(dtype) > \(gradientType)"
                try compare("crossEntropy", dtypes, "log-probabilities", result, expected)
                try compare("crossEntropy", dtypes, "gradient", gradient, slopes)
            }
        }
    }

    /// A vocabulary that this rank and another share.
    mutating func checkShardedCrossEntropy() throws {
        for dtype in activationTypes {
            for gradientType in dtype == .bf16 ? [DType.bf16] : [.f32, .bf16] {
                let (rows, own, other) = (extent(most: 60), 1 + extent(most: 1100), 1 + extent(most: 300))
                let (logits, others) = (tensor([rows, own], dtype, scale: 3), tensor([rows, other], scale: 3).values)
                let scale = tensor([rows])
                let targets = (0..<rows).map { _ in Int32.random(in: -2..<Int32(own + other), using: &random) }
                let local = targets.map { $0 >= own ? -1 : $0 == -1 ? -2 : $0 }
                var (most, expected, slopes) = ([Double](), [Double](), [Double]())
                var (otherSums, otherChosen) = ([Double](), [Double]())
                for row in 0..<rows {
                    let here = logits.values[row * own..<(row + 1) * own]
                    let there = others[row * other..<(row + 1) * other]
                    let (target, largest) = (targets[row], max(here.max()!, there.max()!))
                    let far = there.reduce(0.0) { $0 + exp($1 - largest) }
                    let sum = here.reduce(far) { $0 + exp($1 - largest) }
                    let chosen =
                        target < 0
                        ? 0
                        : Int(target) < own ? here[row * own + Int(target)] : others[row * other + Int(target) - own]
                    most.append(there.max()!)
                    otherSums.append(far)
                    otherChosen.append(Int(target) >= own ? chosen - largest : 0)
                    expected.append(target < 0 ? 0 : chosen - largest - log(sum))
                    slopes += here.enumerated().map { column, x in
                        target < 0 ? 0 : scale.values[row] * (exp(x - largest) / sum - (column == Int(target) ? 1 : 0))
                    }
                }
                let result = backend.makeTensor([rows], .f32)
                let gradient =
                    gradientType == dtype
                    ? backend.copyToDevice(logits.tensor) : backend.makeTensor([rows, own], gradientType)
                backend.crossEntropy(
                    ofShard: gradientType == dtype ? gradient : logits.tensor,
                    targets: backend.copyToDevice(Tensor(local)), scale: scale.tensor, gradient: gradient,
                    logProbabilities: result
                ) { [backend] values, isMaximum in
                    let there = isMaximum ? most : otherSums + otherChosen
                    let both = zip(values.floats, there).map { isMaximum ? max($0, Float($1)) : $0 + Float($1) }
                    backend.convert(Tensor(both, shape: values.shape), into: values)
                }
                let dtypes = "\(dtype) > \(gradientType)"
                try compare("crossEntropy", dtypes, "log-probabilities of a part", result, expected)
                try compare("crossEntropy", dtypes, "gradient of a part", gradient, slopes)
            }
        }
    }

    mutating func checkRotation() throws {
        for dtype in activationTypes {
            for isInterleaved in [false, true] {
                let (tokens, heads, pairs, gap) = (extent(most: 40), 3, extent(most: 64), 3)
                let x = tensor([tokens, heads * (2 * pairs + gap)], dtype)
                let angles = (0..<tokens * pairs).map { _ in random.normal() }
                let cosine = tensor(angles.map { Float(cos(Double($0))) }, [tokens, pairs])
                let sine = tensor(angles.map { Float(sin(Double($0))) }, [tokens, pairs])
                let view = HeadsView(x.tensor, heads: heads, elements: gap..<gap + 2 * pairs)
                backend.rotate(view, cosine: cosine.tensor, sine: sine.tensor, isInterleaved: isInterleaved)
                var expected = x.values
                for token in 0..<tokens {
                    for head in 0..<heads {
                        let start = (token * heads + head) * (2 * pairs + gap) + gap
                        for pair in 0..<pairs {
                            let a = start + (isInterleaved ? 2 * pair : pair)
                            let b = isInterleaved ? a + 1 : a + pairs
                            let (c, s) = (cosine.values[token * pairs + pair], sine.values[token * pairs + pair])
                            (expected[a], expected[b]) = (
                                x.values[a] * c - x.values[b] * s, x.values[b] * c + x.values[a] * s
                            )
                        }
                    }
                }
                try compare("rotate", "\(dtype)", isInterleaved ? "neighbours" : "halves", x.tensor, expected)
            }
        }
    }

    mutating func checkSums() throws {
        for dtype in [DType.f32, .bf16] {
            let (rows, width) = (extent(most: 600), extent())
            let (x, sums) = (tensor([rows, width + 4], dtype), tensor([width]))
            for adds in [false, true] {
                let target = backend.copyToDevice(sums.tensor)
                backend.columnSums(MatrixView(x.tensor, columns: 4..<4 + width), to: target, adds: adds)
                let expected = (0..<width).map { column in
                    (0..<rows).reduce(adds ? sums.values[column] : 0) { $0 + x.values[$1 * (width + 4) + 4 + column] }
                }
                try compare("columnSums", "\(dtype)", adds ? "added" : "written", target, expected, about: sums.values)
            }
        }
        let tensors = [extent(), 16384, 20000 + extent(), 1].map { tensor([$0]) }
        let squares = tensors.reduce(0.0) { $0 + $1.values.reduce(0.0) { $0 + $1 * $1 } }
        try compare(
            "sumOfSquares", "f32 > f64", "output", backend.sumOfSquares(tensors.map(\.tensor)), [squares],
            tolerance: 1e-12)
        let (a, b) = (tensor([5000]), tensor([5000]))
        let sum = zip(a.values, b.values).reduce(0.0) { $0 + $1.0 * $1.1 }
        let found = try values(backend.weightedSum(a.tensor, b.tensor, factor: -0.5))[0]
        // The sum may nearly vanish: the error is of the size of its terms.
        record("weightedSum", "f32", "output", abs(found + 0.5 * sum) / 5000.0.squareRoot(), 1e-6)
    }

    mutating func checkAdamW() throws {
        let step = AdamWStep(
            learningRate: 1e-2, beta1: 0.9, beta2: 0.95, epsilon: 1e-6, step: Int.random(in: 1...50, using: &random))
        let counts = [extent(), 16384 + extent()]
        let gradients = counts.map { tensor([$0]) }
        let starts = counts.map { tensor([$0]) }
        let first = counts.map { tensor([$0], scale: 0.1) }
        let second = counts.map { count in
            tensor((0..<count).map { _ in abs(random.normal()) }, [count])
        }
        let narrow = counts.map { backend.makeTensor([$0], .bf16) }
        let squares = gradients.reduce(0.0) { $0 + $1.values.reduce(0.0) { $0 + $1 * $1 } }
        let clip: Float = 1.5
        let updates = counts.indices.map {
            AdamWUpdate(
                gradient: gradients[$0].tensor, values: starts[$0].tensor, firstMoment: first[$0].tensor,
                secondMoment: second[$0].tensor, narrow: narrow[$0], weightDecay: $0 == 0 ? 0 : 0.1)
        }
        backend.adamW(step, updates, clip: clip, squares: backend.copyToDevice(Tensor(squares)))
        let factor = min(1, Double(clip) / squares.squareRoot())
        let (b1, b2) = (Double(step.beta1), Double(step.beta2))
        for index in counts.indices {
            var (expected, means, deviations) = ([Double](), [Double](), [Double]())
            for (place, g) in gradients[index].values.enumerated() {
                let m = b1 * first[index].values[place] + (1 - b1) * g * factor
                let v = b2 * second[index].values[place] + (1 - b2) * g * factor * g * factor
                let w = starts[index].values[place]
                let change =
                    m / Double(step.correction(step.beta1))
                    / ((v / Double(step.correction(step.beta2))).squareRoot() + Double(step.epsilon))
                expected.append(w - Double(step.learningRate) * (change + Double(updates[index].weightDecay) * w))
                means.append(m)
                deviations.append(v)
            }
            try compare("adamW", "f32", "values", updates[index].values, expected)
            try compare("adamW", "f32", "first moment", updates[index].firstMoment, means)
            try compare("adamW", "f32", "second moment", updates[index].secondMoment, deviations)
            try compare("adamW", "bf16", "copy", narrow[index], expected)
        }
        // Gradients that are not finite change nothing.
        let before = try values(updates[0].values)
        backend.adamW(step, updates, clip: clip, squares: backend.copyToDevice(Tensor(Double.nan)))
        try compare("adamW", "f32", "not finite", updates[0].values, before, tolerance: 0)
    }
}
