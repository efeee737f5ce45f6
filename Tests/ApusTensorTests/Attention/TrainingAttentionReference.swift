#if canImport(Glibc)
import Glibc
#endif

/// Sizes of one call of training attention.
struct TrainingShape: CustomStringConvertible {
    var lengths: [Int]
    var heads: Int
    var kvHeads: Int
    var keyOwn: Int
    var keyOnce: Int
    var value: Int
    var window = 0

    var tokens: Int { lengths.reduce(0, +) }
    var key: Int { keyOwn + keyOnce }
    var scale: Double { 1 / Double(key).squareRoot() }
    var starts: [Int] { lengths.reduce(into: [0]) { $0.append($0.last! + $1) } }

    var description: String {
        "\(lengths) tokens, \(heads)/\(kvHeads) heads, key \(keyOwn) + \(keyOnce), value \(value), window \(window)"
    }
}

/// Rows [tokens][heads][width], without gaps, in float64.
struct ReferenceRows {
    let tokens: Int
    let heads: Int
    let width: Int
    var values: [Double]

    init(_ tokens: Int, _ heads: Int, _ width: Int) {
        (self.tokens, self.heads, self.width) = (tokens, heads, width)
        values = Array(repeating: 0, count: tokens * heads * width)
    }

    init(_ tokens: Int, _ heads: Int, _ width: Int, random: inout SplitMix) {
        self.init(tokens, heads, width)
        for i in values.indices { values[i] = Double(Float.random(in: -1.7...1.7, using: &random)) }
    }

    subscript(token: Int, head: Int, column: Int) -> Double {
        get { values[(token * heads + head) * width + column] }
        set { values[(token * heads + head) * width + column] = newValue }
    }
}

/// What attention reads.
struct ReferenceOperands {
    var query: ReferenceRows
    var keyOwn: ReferenceRows
    var keyOnce: ReferenceRows
    var value: ReferenceRows
    var outputGradient: ReferenceRows

    init(_ shape: TrainingShape, random: inout SplitMix) {
        query = ReferenceRows(shape.tokens, shape.heads, shape.key, random: &random)
        keyOwn = ReferenceRows(shape.tokens, shape.kvHeads, shape.keyOwn, random: &random)
        keyOnce = ReferenceRows(shape.tokens, 1, shape.keyOnce, random: &random)
        value = ReferenceRows(shape.tokens, shape.kvHeads, shape.value, random: &random)
        outputGradient = ReferenceRows(shape.tokens, shape.heads, shape.value, random: &random)
    }
}

/// Attention and its gradient in float64, from the formulas, with every score of a row at once.
struct ReferenceAttention {
    var output: ReferenceRows
    var logSumExp: ReferenceRows
    var query: ReferenceRows
    var keyOwn: ReferenceRows
    var keyOnce: ReferenceRows
    var value: ReferenceRows

    init(_ shape: TrainingShape, _ operands: ReferenceOperands) {
        output = ReferenceRows(shape.tokens, shape.heads, shape.value)
        logSumExp = ReferenceRows(shape.tokens, shape.heads, 1)
        query = ReferenceRows(shape.tokens, shape.heads, shape.key)
        keyOwn = ReferenceRows(shape.tokens, shape.kvHeads, shape.keyOwn)
        keyOnce = ReferenceRows(shape.tokens, 1, shape.keyOnce)
        value = ReferenceRows(shape.tokens, shape.kvHeads, shape.value)
        let starts = shape.starts
        for sequence in shape.lengths.indices {
            for token in starts[sequence]..<starts[sequence + 1] {
                let first = shape.window > 0 ? max(starts[sequence], token - shape.window + 1) : starts[sequence]
                for head in 0..<shape.heads { attend(shape, operands, token, head, keys: first..<token + 1) }
            }
        }
    }

    private mutating func attend(
        _ shape: TrainingShape, _ x: ReferenceOperands, _ token: Int, _ head: Int, keys: Range<Int>
    ) {
        let group = head / (shape.heads / shape.kvHeads)
        let scores = keys.map { j -> Double in
            var sum = 0.0
            for c in 0..<shape.keyOwn { sum += x.query[token, head, c] * x.keyOwn[j, group, c] }
            for c in 0..<shape.keyOnce { sum += x.query[token, head, shape.keyOwn + c] * x.keyOnce[j, 0, c] }
            return sum * shape.scale
        }
        let most = scores.max()!
        let total = scores.reduce(0) { $0 + exp($1 - most) }
        let weights = scores.map { exp($0 - most) / total }
        logSumExp[token, head, 0] = most + log(total)
        var slopes = [Double](repeating: 0, count: keys.count)
        for (i, j) in keys.enumerated() {
            for c in 0..<shape.value {
                output[token, head, c] += weights[i] * x.value[j, group, c]
                slopes[i] += x.value[j, group, c] * x.outputGradient[token, head, c]
                value[j, group, c] += weights[i] * x.outputGradient[token, head, c]
            }
        }
        let mean = zip(weights, slopes).reduce(0) { $0 + $1.0 * $1.1 }
        for (i, j) in keys.enumerated() {
            let gradient = weights[i] * (slopes[i] - mean) * shape.scale
            for c in 0..<shape.keyOwn {
                query[token, head, c] += gradient * x.keyOwn[j, group, c]
                keyOwn[j, group, c] += gradient * x.query[token, head, c]
            }
            for c in 0..<shape.keyOnce {
                query[token, head, shape.keyOwn + c] += gradient * x.keyOnce[j, 0, c]
                keyOnce[j, 0, c] += gradient * x.query[token, head, shape.keyOwn + c]
            }
        }
    }
}
