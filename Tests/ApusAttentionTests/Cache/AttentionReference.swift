import ApusAttention
import ApusTensor

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// A small deterministic generator (SplitMix64).
struct SplitMix: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }

    mutating func tensor(_ shape: Shape, in range: ClosedRange<Float> = -1.5...1.5) -> Tensor {
        Tensor((0..<shape.count).map { _ in Float.random(in: range, using: &self) }, shape: shape)
    }
}

/// Tokens of one sequence: what each leaves in the cache, and its query.
struct SequenceData {
    let length: Int
    /// [length, groups, width]; width 0 gives an empty tensor.
    let shared: Tensor
    let value: Tensor
    /// [length, groups or 1, width].
    let key: Tensor
    /// [length, query heads, shared + key].
    let query: Tensor

    init(_ geometry: CacheGeometry, length: Int, random: inout SplitMix) {
        self.length = length
        shared = random.tensor([length, geometry.groups, geometry.shared])
        value = random.tensor([length, geometry.groups, geometry.value])
        key = random.tensor([length, geometry.keyKept == .once ? 1 : geometry.groups, geometry.key])
        query = random.tensor([length, geometry.queryHeads, geometry.queryWidth])
    }
}

/// Attention of the query at `position`, in float64, straight from the definition in ``CacheGeometry``. The scores are
/// `scale x query . key`; `window`, `softcap` and sinks as in ``AttentionParameters``.
func referenceAttention(
    _ geometry: CacheGeometry, _ data: SequenceData, position: Int, length: Int, parameters: AttentionParameters
) -> (output: [Double], logSumExp: [Double]) {
    data.shared.withElements(of: Float.self) { shared in
        data.value.withElements(of: Float.self) { value in
            data.key.withElements(of: Float.self) { key in
                data.query.withElements(of: Float.self) { query in
                    referenceAttention(
                        geometry, shared: shared, value: value, key: key, query: query, position: position,
                        length: length, parameters: parameters)
                }
            }
        }
    }
}

private func referenceAttention(
    _ geometry: CacheGeometry, shared: UnsafeBufferPointer<Float>, value: UnsafeBufferPointer<Float>,
    key: UnsafeBufferPointer<Float>, query: UnsafeBufferPointer<Float>, position: Int, length: Int,
    parameters: AttentionParameters
) -> (output: [Double], logSumExp: [Double]) {
    let keyGroups = geometry.keyKept == .once ? 1 : geometry.groups
    let first = parameters.window.map { max(0, position + 1 - $0) } ?? 0
    let end = parameters.causal ? position + 1 : length
    var output: [Double] = []
    var logSums: [Double] = []
    for head in 0..<geometry.queryHeads {
        let group = head / geometry.headsPerGroup
        let q = (position * geometry.queryHeads + head) * geometry.queryWidth
        var scores: [Double] = []
        for token in first..<end {
            var score = 0.0
            let sharedRow = (token * geometry.groups + group) * geometry.shared
            for i in 0..<geometry.shared { score += Double(query[q + i]) * Double(shared[sharedRow + i]) }
            let keyRow = (token * keyGroups + (geometry.keyKept == .once ? 0 : group)) * geometry.key
            for i in 0..<geometry.key { score += Double(query[q + geometry.shared + i]) * Double(key[keyRow + i]) }
            score *= Double(parameters.scale)
            if let cap = parameters.softcap { score = Double(cap) * tanh(score / Double(cap)) }
            scores.append(score)
        }
        let sink = parameters.sinks.map { Double($0[head]) }
        let most = max(scores.max()!, sink ?? -.infinity)
        let total = scores.reduce(sink.map { exp($0 - most) } ?? 0) { $0 + exp($1 - most) }
        var row = [Double](repeating: 0, count: geometry.outputWidth)
        for (score, token) in zip(scores, first..<end) {
            let weight = exp(score - most) / total
            let state = token * geometry.groups + group
            for i in 0..<geometry.shared { row[i] += weight * Double(shared[state * geometry.shared + i]) }
            for i in 0..<geometry.value {
                row[geometry.shared + i] += weight * Double(value[state * geometry.value + i])
            }
        }
        output += row
        logSums.append(most + log(total))
    }
    return (output, logSums)
}

/// ||a - b|| / ||b||, infinite when anything is not finite.
func relativeError(_ found: [Float], _ expected: [Double]) -> Double {
    precondition(found.count == expected.count)
    var difference = 0.0
    var norm = 0.0
    for (a, b) in zip(found, expected) {
        difference += (Double(a) - b) * (Double(a) - b)
        norm += b * b
    }
    let error = (difference / max(norm, 1e-30)).squareRoot()
    return error.isFinite ? error : .infinity
}
