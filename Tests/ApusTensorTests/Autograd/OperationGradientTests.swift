import ApusTensor
import Foundation
import Testing

/// x [rows, inputs] times the transpose of w [outputs, inputs].
private func product(_ x: [Double], _ w: [Double], inputs: Int) -> [Double] {
    let (rows, outputs) = (x.count / inputs, w.count / inputs)
    return (0..<rows).flatMap { r in
        (0..<outputs).map { o in (0..<inputs).reduce(0.0) { $0 + x[r * inputs + $1] * w[o * inputs + $1] } }
    }
}

private func rmsNorm(_ x: [Double], _ w: [Double], _ epsilon: Double) -> [Double] {
    let width = w.count
    return (0..<x.count / width).flatMap { r -> [Double] in
        let row = x[(r * width)..<((r + 1) * width)]
        let inverse = 1 / (row.reduce(0) { $0 + $1 * $1 } / Double(width) + epsilon).squareRoot()
        return zip(row, w).map { $0 * inverse * $1 }
    }
}

@Suite struct OperationGradientTests {
    /// float32 operands keep 1e-5; bf16 operands carry 2^-9 each, at random.
    static let precisions: [(DType, Double)] = [(.f32, 1e-5), (.bf16, 1.2e-2)]

    @Test(arguments: precisions) func linearWithSlicesBiasAndSeveralOutputs(precision: (DType, Double)) {
        var numbers = SplitMix(state: 1)
        let (rows, a, b) = (7, 5, 3)
        let inputs = [
            numbers.tensor([rows, a]), numbers.tensor([rows, b]), numbers.tensor([6, a]), numbers.tensor([4, b]),
            numbers.tensor([6]),
        ]
        checkGradients(inputs, tolerance: precision.1) { tensors in
            let operations = DifferentiableOperations(compute: precision.0)
            let (x, y) = (tensors[0].tracked(), tensors[1].tracked())
            let (w, v, bias) = (Parameter(tensors[2]), Parameter(tensors[3]), Parameter(tensors[4]))
            // Two outputs: rows 1 to 5 of w with their biases, then v; and the first row of w again.
            let outputs = operations.linear(
                [x, y],
                [
                    [LinearPart(w, rows: 1..<6, bias: bias, input: 0), LinearPart(v, input: 1)],
                    [LinearPart(w, rows: 0..<1, input: 0)],
                ])
            return (outputs, { [x.gradient, y.gradient, w.gradient, v.gradient, bias.gradient] })
        } reference: { p in
            let all = product(p[0], p[2], inputs: a)
            let second = product(p[1], p[3], inputs: b)
            var result: [Double] = []
            for r in 0..<rows {
                for o in 1..<6 { result.append(all[r * 6 + o] + p[4][o]) }
                result += second[(r * 4)..<(r * 4 + 4)]
            }
            for r in 0..<rows { result.append(all[r * 6]) }
            return result
        }
    }

    @Test(arguments: [(1, 1), (3, 7), (130, 33), (65, 64)]) func rmsNormOfOddShapes(rows: Int, width: Int) {
        var numbers = SplitMix(state: 2)
        checkGradients([numbers.tensor([rows, width]), numbers.tensor([width])], tolerance: 1e-5) { tensors in
            let x = tensors[0].tracked()
            let weight = Parameter(tensors[1])
            let y = DifferentiableOperations().rmsNorm(x, weight: weight, epsilon: 1e-2)
            return ([y], { [x.gradient, weight.gradient] })
        } reference: {
            rmsNorm($0[0], $0[1], Double(Float(1e-2)))
        }
    }

    @Test func addRMSNormGivesBothAddendsTheSum() {
        var numbers = SplitMix(state: 3)
        let inputs = [numbers.tensor([5, 18]), numbers.tensor([5, 18]), numbers.tensor([18])]
        checkGradients(inputs, tolerance: 1e-5) { tensors in
            let (x, residual, weight) = (tensors[0].tracked(), tensors[1].tracked(), Parameter(tensors[2]))
            let (sum, y) = DifferentiableOperations().addRMSNorm(x, to: residual, weight: weight, epsilon: 1e-2)
            return ([sum, y], { [x.gradient, residual.gradient, weight.gradient] })
        } reference: { p in
            let sum = zip(p[0], p[1]).map { $0 + $1 }
            return sum + rmsNorm(sum, p[2], Double(Float(1e-2)))
        }
    }

    @Test(arguments: [(1, 1), (3, 50), (5, 257)]) func swiglu(rows: Int, width: Int) {
        var numbers = SplitMix(state: 4)
        checkGradients(
            [numbers.tensor([rows, width], scale: 4), numbers.tensor([rows, width])],
            tolerance: 1e-5
        ) { tensors in
            let (gate, up) = (tensors[0].tracked(), tensors[1].tracked())
            return ([DifferentiableOperations().swiglu(gate: gate, up: up)], { [gate.gradient, up.gradient] })
        } reference: { p in
            zip(p[0], p[1]).map { $0 / (1 + exp(-$0)) * $1 }
        }
    }

    @Test func embeddingAddsRowsOfRepeatedTokens() {
        var numbers = SplitMix(state: 5)
        let tokens: [Int32] = [3, 0, 3, 3, 6, 0]
        checkGradients([numbers.tensor([7, 130])], tolerance: 1e-6) { tensors in
            let table = Parameter(tensors[0])
            return ([DifferentiableOperations().embedding(tokens, table: table)], { [table.gradient] })
        } reference: { p in
            tokens.flatMap { p[0][(Int($0) * 130)..<(Int($0) * 130 + 130)] }
        }
    }

    @Test(arguments: precisions, [false, true])
    func crossEntropyOfTheHead(precision: (DType, Double), isWeighted: Bool) {
        var numbers = SplitMix(state: 6)
        let (rows, width, vocabulary) = (9, 11, 37)
        let targets: [Int32] = [0, 36, -1, 5, 5, 17, -1, 2, 30]
        let weights: [Float]? = isWeighted ? [0.5, 2, 9, -1, 0, 0.25, 1, 1, 3] : nil
        let inputs = [numbers.tensor([rows, width]), numbers.tensor([vocabulary, width])]
        checkGradients(inputs, tolerance: precision.1) { tensors in
            let (hidden, head) = (tensors[0].tracked(), Parameter(tensors[1]))
            let (loss, logProbabilities) = DifferentiableOperations(compute: precision.0).crossEntropy(
                hidden, head: head, targets: targets, weights: weights)
            #expect(logProbabilities.count == rows && logProbabilities.floats[2] == 0)
            return ([loss], { [hidden.gradient, head.gradient] })
        } reference: { p in
            let logits = product(p[0], p[1], inputs: width)
            let loss = (0..<rows).filter { targets[$0] >= 0 }.reduce(0.0) { total, row in
                let line = logits[(row * vocabulary)..<((row + 1) * vocabulary)]
                let logProbability = line[line.startIndex + Int(targets[row])] - log(line.reduce(0) { $0 + exp($1) })
                return total - Double(weights?[row] ?? 1 / 7) * logProbability
            }
            return [loss]
        }
    }

    @Test func crossEntropyInBlocksEqualsThePlainFormula() {
        // A vocabulary that takes several blocks of rows, with a last one that is not full.
        var numbers = SplitMix(state: 7)
        let (rows, width, vocabulary) = (150, 4, 66_000)
        let hidden = numbers.tensor([rows, width])
        let head = Parameter(numbers.tensor([vocabulary, width]))
        let targets = (0..<rows).map { Int32($0 * 401) }
        let (loss, ofRows) = DifferentiableOperations().crossEntropy(hidden, head: head, targets: targets)
        let logProbabilities = ofRows.floats
        loss.backward()
        let x = hidden.floats.map(Double.init)
        let w = head.value.floats.map(Double.init)
        var expected = [Double](repeating: 0, count: w.count)
        for row in 0..<rows {
            let line = x[(row * width)..<((row + 1) * width)]
            let logits = product(Array(line), w, inputs: width)
            let total = logits.reduce(0) { $0 + exp($1) }
            #expect(abs(logits[Int(targets[row])] - log(total) - Double(logProbabilities[row])) < 1e-5)
            for token in 0..<vocabulary {
                let d = (exp(logits[token]) / total - (token == Int(targets[row]) ? 1 : 0)) / Double(rows)
                for (i, value) in line.enumerated() { expected[token * width + i] += d * value }
            }
        }
        #expect(relativeError(head.gradient!.floats, expected) < 1e-5)
    }

    @Test func aTensorUsedTwiceGathersBothGradients() {
        var numbers = SplitMix(state: 8)
        checkGradients([numbers.tensor([4, 6]), numbers.tensor([6, 6])], tolerance: 1e-5) { tensors in
            let operations = DifferentiableOperations()
            let (x, w) = (tensors[0].tracked(), Parameter(tensors[1]))
            let y = operations.linear(x, w)
            let z = operations.linear(operations.add(y, x), w)
            return ([operations.add(z, y), y], { [x.gradient, w.gradient] })
        } reference: { p in
            let y = product(p[0], p[1], inputs: 6)
            let z = product(zip(y, p[0]).map { $0 + $1 }, p[1], inputs: 6)
            return zip(z, y).map { $0 + $1 } + y
        }
    }
}
