#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// The tokens that survive the filters, with their weights (probabilities up to a factor).
struct Candidates: Sendable {
    private var tokens: [Int32]
    private var weights: [Float]

    /// Filters `logits` (whose maximum is `largest`) by temperature, top-k, top-p and min-p.
    init(_ logits: UnsafeBufferPointer<Float>, largest: Float, _ parameters: SamplingParameters) {
        let scale = Float(1 / max(parameters.temperature, 1e-6))
        func weight(_ logit: Float) -> Float { expf((logit - largest) * scale) }
        if parameters.topK > 0 && parameters.topK < logits.count {
            tokens = Self.largest(logits, count: parameters.topK)
            weights = tokens.map { weight(logits[Int($0)]) }
            if parameters.topP < 1 { keepNucleus(parameters.topP, of: Self.sum(weights)) }
        } else {
            tokens = []
            weights = Exponentials.scaled(logits, shift: largest, scale: scale)
            if parameters.topP < 1 { sortNucleus(parameters.topP) }
        }
        if parameters.minP > 0 { keepLikely(Float(parameters.minP)) }
    }

    private static func sum(_ weights: [Float]) -> Double { weights.withUnsafeBufferPointer { Exponentials.sum($0) } }

    /// The token at quantile `u` of the distribution, `u` in [0, 1).
    func pick(_ u: Double) -> Int32 {
        var left = u * Self.sum(weights)
        var chosen = 0
        weights.withUnsafeBufferPointer { weights in
            // Whole blocks first: the draw falls behind most of them.
            let block = 256
            var start = 0
            while start + block < weights.count {
                let sum = Exponentials.sum(UnsafeBufferPointer(rebasing: weights[start..<start + block]))
                if left < sum { break }
                left -= sum
                start += block
            }
            for index in start..<weights.count where weights[index] > 0 {
                chosen = index
                left -= Double(weights[index])
                if left < 0 { break }
            }
            // Where rounding left nothing in the last block, the last token that can be drawn.
            if weights[chosen] == 0 { chosen = weights.lastIndex { $0 > 0 } ?? 0 }
        }
        return tokens.isEmpty ? Int32(chosen) : tokens[chosen]
    }

    /// The probability of a token.
    func probability(of token: Int32) -> Double {
        guard let index = tokens.isEmpty ? Int(token) : tokens.firstIndex(of: token) else { return 0 }
        return Double(weights[index]) / Self.sum(weights)
    }

    /// What is left of this distribution where it exceeds another: max(p - q, 0), up to a factor; nil where that is nothing.
    func exceeding(_ other: Candidates) -> Candidates? {
        var weightOf: [Int32: Float] = [:]
        for (token, weight) in zip(other.tokens, other.weights) { weightOf[token] = weight }
        let (total, otherTotal) = (Self.sum(weights), Self.sum(other.weights))
        var rest = self
        for index in weights.indices {
            let token = tokens.isEmpty ? Int32(index) : tokens[index]
            let weight = other.tokens.isEmpty ? other.weights[Int(token)] : weightOf[token] ?? 0
            rest.weights[index] = Float(max(Double(weights[index]) / total - Double(weight) / otherTotal, 0))
        }
        return Self.sum(rest.weights) > 0 ? rest : nil
    }

    /// Cuts weights, sorted in descending order, after the first at which the share of `total` is reached.
    private mutating func keepNucleus(_ topP: Double, of total: Double) {
        var sum = 0.0
        var kept = 0
        for weight in weights {
            sum += Double(weight)
            kept += 1
            if sum >= topP * total { break }
        }
        tokens.removeLast(tokens.count - kept)
        weights.removeLast(weights.count - kept)
    }

    /// Turns the weights of the whole vocabulary into the sorted nucleus. Only tokens above a threshold are sorted, and it is
    /// lowered until they hold the share.
    private mutating func sortNucleus(_ topP: Double) {
        let all = weights
        let total = Self.sum(all)
        var threshold: Float = 1e-2
        var chosen: [Int32] = []
        repeat {
            chosen = all.indices.filter { all[$0] >= threshold }.map { Int32($0) }
            if Self.sum(chosen.map { all[Int($0)] }) >= topP * total { break }
            threshold = threshold > 1e-30 ? threshold * 0.05 : 0
        } while chosen.count < all.count
        chosen.sort { all[Int($0)] > all[Int($1)] || (all[Int($0)] == all[Int($1)] && $0 < $1) }
        tokens = chosen
        weights = chosen.map { all[Int($0)] }
        keepNucleus(topP, of: total)
    }

    private mutating func keepLikely(_ minP: Float) {
        if tokens.isEmpty {
            for index in weights.indices where weights[index] < minP { weights[index] = 0 }
        } else {
            let kept = weights.indices.filter { weights[$0] >= minP }
            tokens = kept.map { tokens[$0] }
            weights = kept.map { weights[$0] }
        }
    }

    /// The `count` tokens with the largest logits, largest first, ties by token: a binary heap of `count` over one pass.
    static func largest(_ logits: UnsafeBufferPointer<Float>, count: Int) -> [Int32] {
        guard count > 0 else { return [] }
        var heap: [Int32] = []
        heap.reserveCapacity(count)
        func worse(_ a: Int32, _ b: Int32) -> Bool {
            let (x, y) = (logits[Int(a)], logits[Int(b)])
            return x < y || (x == y && a > b)
        }
        func siftDown(_ start: Int) {
            var parent = start
            while true {
                var child = 2 * parent + 1
                if child >= heap.count { return }
                if child + 1 < heap.count && worse(heap[child + 1], heap[child]) { child += 1 }
                if !worse(heap[child], heap[parent]) { return }
                heap.swapAt(child, parent)
                parent = child
            }
        }
        for index in logits.indices {
            let token = Int32(index)
            if heap.count < count {
                heap.append(token)
                if heap.count == count {
                    for start in stride(from: count / 2 - 1, through: 0, by: -1) { siftDown(start) }
                }
            } else if logits[index] > logits[Int(heap[0])] {
                heap[0] = token
                siftDown(0)
            }
        }
        return heap.sorted { worse($1, $0) }
    }
}
