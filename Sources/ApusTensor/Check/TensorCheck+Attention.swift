#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// The shapes that a variant's training form has.
struct AttentionCase {
    let name: String
    let heads: Int
    let kvHeads: Int
    let key: Int
    let once: Int
    let value: Int
    /// Whether keys are the first elements of values.
    var isTied = false
    var window: Int?

    static let variants = [
        AttentionCase(name: "mha", heads: 3, kvHeads: 3, key: 64, once: 0, value: 64),
        AttentionCase(name: "gqa", heads: 6, kvHeads: 2, key: 64, once: 0, value: 64),
        AttentionCase(name: "mqa", heads: 4, kvHeads: 1, key: 128, once: 0, value: 128),
        AttentionCase(name: "gqa, window", heads: 4, kvHeads: 2, key: 32, once: 0, value: 32, window: 70),
        AttentionCase(name: "gta", heads: 4, kvHeads: 2, key: 32, once: 32, value: 64, isTied: true),
        AttentionCase(name: "mla", heads: 4, kvHeads: 4, key: 64, once: 32, value: 64),
        AttentionCase(name: "gla", heads: 4, kvHeads: 4, key: 32, once: 16, value: 32),
        AttentionCase(name: "gqa, odd", heads: 4, kvHeads: 2, key: 20, once: 0, value: 20),
        AttentionCase(name: "gta, odd", heads: 2, kvHeads: 1, key: 24, once: 24, value: 48, isTied: true),
        AttentionCase(name: "gla, odd", heads: 2, kvHeads: 2, key: 48, once: 24, value: 48),
    ]
}

extension TensorCheck {
    /// Attention over several sequences, one of them empty, with operands that lie as layers have them.
    mutating func checkAttention(_ shape: AttentionCase) throws {
        let lengths = [Int.random(in: 129...200, using: &random), 1, 0, Int.random(in: 2...127, using: &random), 128]
        let starts = lengths.reduce(into: [0]) { $0.append($0.last! + $1) }
        let tokens = starts.last!
        for dtype in activationTypes {
            // What is multiplied has bf16's digits in either dtype where the device rounds it to those.
            let operandType: DType = backend.device == .cpu ? dtype : .bf16
            let columns = [
                shape.heads * (shape.key + shape.once), shape.isTied ? 0 : shape.kvHeads * shape.key, shape.once,
                shape.kvHeads * shape.value,
            ]
            let cuts = columns.reduce(into: [0]) { $0.append($0.last! + $1) }
            let width = cuts[4]
            let numbers = tensor([tokens, width], operandType)
            let all = dtype == operandType ? numbers.tensor : backend.converted(numbers.tensor, to: dtype)
            func operands(_ x: Tensor) -> AttentionOperands {
                let value = HeadsView(
                    x, columns: cuts[3]..<cuts[4], heads: shape.kvHeads, elements: 0..<shape.value)
                return AttentionOperands(
                    query: HeadsView(
                        x, columns: 0..<cuts[1], heads: shape.heads, elements: 0..<(shape.key + shape.once)),
                    key: shape.isTied
                        ? HeadsView(x, columns: cuts[3]..<cuts[4], heads: shape.kvHeads, elements: 0..<shape.key)
                        : HeadsView(x, columns: cuts[1]..<cuts[2], heads: shape.kvHeads, elements: 0..<shape.key),
                    keyOnce: shape.once > 0
                        ? HeadsView(x, columns: cuts[2]..<cuts[3], heads: 1, elements: 0..<shape.once) : nil,
                    value: value)
            }
            let parameters = SequenceAttention(
                starts: starts, scale: Float(1 / Double(shape.key + shape.once).squareRoot()), window: shape.window)
            let (output, logSumExp) = backend.attentionForward(operands(all), parameters, output: dtype)
            let d = tensor([tokens, shape.heads * shape.value], operandType)
            let gradient = dtype == operandType ? d.tensor : backend.converted(d.tensor, to: dtype)
            // Views that overlap are added to.
            let target = backend.makeTensor([tokens, width], shape.isTied ? .f32 : dtype)
            target.fillWithZeros()
            backend.attentionBackward(
                operands(all), parameters, output: output, logSumExp: logSumExp, gradient: gradient,
                into: operands(target), adds: shape.isTied)
            let reference = ReferenceAttention(operands(all), parameters, numbers.values, d.values)
            let tolerance = backend.device == .cpu && dtype == .f32 ? 2e-5 : 6e-3
            let name = "attention \(shape.name)"
            try compare(name, "\(dtype)", "output", output, reference.output, tolerance: tolerance)
            try compare(name, "\(dtype)", "log-sum-exp", logSumExp, reference.logSumExp, tolerance: 2e-5)
            try compare(name, "\(dtype)", "gradients", target, reference.gradients, tolerance: 2 * tolerance)
        }
    }
}

/// Attention and its gradients in float64, row by row from the formulas.
private struct ReferenceAttention {
    var output: [Double]
    var logSumExp: [Double]
    /// In the place of the operands.
    var gradients: [Double]

    init(_ operands: AttentionOperands, _ parameters: SequenceAttention, _ x: [Double], _ d: [Double]) {
        let (query, value) = (operands.query, operands.value)
        let tokens = parameters.starts.last!
        output = Array(repeating: 0, count: tokens * query.heads * value.width)
        logSumExp = Array(repeating: 0, count: tokens * query.heads)
        gradients = Array(repeating: 0, count: x.count)
        let (group, scale) = (query.heads / operands.key.heads, Double(parameters.scale))
        func place(_ view: HeadsView, _ token: Int, _ head: Int) -> Int {
            view.offset + token * view.tokenStride + head * view.headStride
        }
        /// Places of the query's and the key's elements that meet.
        func pairs(_ row: Int, _ head: Int, _ key: Int) -> [(Int, Int)] {
            let (q, k) = (place(query, row, head), place(operands.key, key, head / group))
            var result = (0..<operands.key.width).map { (q + $0, k + $0) }
            if let once = operands.keyOnce {
                let k = place(once, key, 0)
                result += (0..<once.width).map { (q + operands.key.width + $0, k + $0) }
            }
            return result
        }
        for (begin, end) in zip(parameters.starts, parameters.starts.dropFirst()) {
            for row in begin..<end {
                let keys = max(begin, parameters.window.map { row - $0 + 1 } ?? begin)...row
                for head in 0..<query.heads {
                    let scores = keys.map { key in
                        scale * pairs(row, head, key).reduce(0.0) { $0 + x[$1.0] * x[$1.1] }
                    }
                    let most = scores.max()!
                    let sum = scores.reduce(0.0) { $0 + exp($1 - most) }
                    let index = row * query.heads + head
                    logSumExp[index] = most + log(sum)
                    let weights = scores.map { exp($0 - most) / sum }
                    let first = index * value.width
                    for (weight, key) in zip(weights, keys) {
                        let v = place(value, key, head / group)
                        for column in 0..<value.width { output[first + column] += weight * x[v + column] }
                    }
                    let delta = (0..<value.width).reduce(0.0) { $0 + d[first + $1] * output[first + $1] }
                    for (weight, key) in zip(weights, keys) {
                        let v = place(value, key, head / group)
                        var slope = -delta
                        for column in 0..<value.width {
                            slope += d[first + column] * x[v + column]
                            gradients[v + column] += weight * d[first + column]
                        }
                        slope *= weight * scale
                        for (q, k) in pairs(row, head, key) {
                            gradients[q] += slope * x[k]
                            gradients[k] += slope * x[q]
                        }
                    }
                }
            }
        }
    }
}
