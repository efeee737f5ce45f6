import ApusAttention
import ApusTensor

/// The six variants at odd sizes, two that stress padding, and a real shape.
func oddGeometries() throws -> [(name: String, geometry: CacheGeometry)] {
    [
        ("mha", try .mha(queryHeads: 6, headWidth: 8)),
        ("mqa", try .mqa(queryHeads: 6, headWidth: 24)),
        ("gqa", try .gqa(queryHeads: 6, kvHeads: 3, headWidth: 5, valueWidth: 7)),
        ("gta", try .gta(queryHeads: 6, kvHeads: 3, headWidth: 32, ropeWidth: 8)),
        ("mla", try .mla(queryHeads: 6, latentWidth: 24, ropeWidth: 8)),
        ("gla", try .gla(queryHeads: 6, latentHeads: 3, latentWidth: 24, ropeWidth: 8)),
        ("gla, odd", try .gla(queryHeads: 14, latentHeads: 2, latentWidth: 37, ropeWidth: 5)),
        ("gta, odd", try .gta(queryHeads: 8, kvHeads: 1, headWidth: 75, ropeWidth: 10)),
        ("smollm2", try .gqa(queryHeads: 9, kvHeads: 3, headWidth: 64)),
    ]
}

/// A cache of two layers, of which the second is tested, with pages in random order and full of NaN.
struct CacheHarness {
    let cache: PagedCache
    let geometry: CacheGeometry
    static let layer = 1

    init(
        _ geometry: CacheGeometry, dtype: DType, pageSize: Int, tokens: Int, backend: CPUBackend, seed: UInt64 = 1
    ) throws {
        self.geometry = geometry
        let pages = tokens / pageSize + 16
        cache = try PagedCache(
            geometries: [try .mqa(queryHeads: 1, headWidth: 4), geometry], layout: CacheLayout(dtype: dtype),
            pageSize: pageSize, pages: pages, backend: backend)
        var random = SplitMix(state: seed)
        let all = (0..<pages).map { _ in cache.makeSequence() }
        let batch = try cache.begin(all.map { ($0, pageSize) })
        let poison = Float.nan
        func rows(_ groups: Int, _ width: Int) -> Tensor {
            Tensor(
                Array(repeating: poison, count: batch.tokens * groups * width), shape: [batch.tokens, groups, width])
        }
        cache.append(
            layer: Self.layer, batch: batch, shared: rows(geometry.groups, geometry.shared),
            key: rows(geometry.keyKept == .once ? 1 : geometry.groups, geometry.key),
            value: rows(geometry.groups, geometry.value))
        cache.commit(batch)
        for sequence in all.shuffled(using: &random) { try cache.truncate(sequence, to: 0) }
    }

    /// Appends `counts[i]` tokens of each sequence and attends.
    func step(
        _ sequences: [CacheSequence], _ data: [SequenceData], _ counts: [Int], _ parameters: AttentionParameters
    ) throws -> AttentionResult {
        let ranges = zip(sequences, counts).map { $0.length..<$0.length + $1 }
        let batch = try cache.begin(zip(sequences, counts).map { ($0, $1) })
        func gathered(_ part: (SequenceData) -> Tensor) -> Tensor {
            let parts = zip(data, ranges).map { part($0).rows($1) }
            var shape = part(data[0]).shape
            shape[0] = batch.tokens
            return Tensor(parts.flatMap(\.floats), shape: shape)
        }
        cache.append(
            layer: Self.layer, batch: batch, shared: gathered(\.shared), key: gathered(\.key), value: gathered(\.value))
        poisonFreedStorage(elements: batch.tokens * geometry.queryHeads * geometry.outputWidth)
        let result = cache.attend(gathered(\.query), layer: Self.layer, batch: batch, parameters: parameters)
        cache.commit(batch)
        return result
    }

    /// The next tensors of this size find NaN in their memory.
    private func poisonFreedStorage(elements: Int) {
        let blocks = (0..<3).map { _ in Tensor(uninitialized: [elements]) }
        for block in blocks { block.withMutableElements(of: Float.self) { $0.update(repeating: .nan) } }
    }
}

/// A ragged batch with the exact results of its two steps: the cached tokens first, then the new ones.
struct RaggedCase {
    let geometry: CacheGeometry
    let parameters: AttentionParameters
    let cached: [Int]
    let new: [Int]
    let data: [SequenceData]
    /// Exact results by sequence and position, of every new token and up to 40 of the cached ones.
    private let exact: [[Int: (output: [Double], logSumExp: [Double])]]

    /// Cached tokens and new ones of each sequence, around the ends of blocks (64) and spans (256).
    static let shape: [(cached: Int, new: Int)] = [(0, 1), (0, 5), (3, 1), (62, 4), (64, 1), (255, 2), (300, 3)]

    init(_ geometry: CacheGeometry, _ parameters: AttentionParameters, shape: [(cached: Int, new: Int)] = shape) {
        self.geometry = geometry
        self.parameters = parameters
        cached = shape.map(\.cached)
        new = shape.map(\.new)
        var random = SplitMix(state: UInt64(geometry.elementsPerToken))
        data = shape.map { SequenceData(geometry, length: $0.cached + $0.new, random: &random) }
        exact = zip(shape, data).map { shape, data in
            var results: [Int: (output: [Double], logSumExp: [Double])] = [:]
            let length = shape.cached + shape.new
            let sampled = Array(stride(from: shape.cached - 1, through: 0, by: -max(1, shape.cached / 40)))
            for position in sampled + (shape.cached..<length) {
                results[position] = referenceAttention(
                    geometry, data, position: position, length: position < shape.cached ? shape.cached : length,
                    parameters: parameters)
            }
            return results
        }
    }

    /// Worst relative errors of output and log-sum-exp over sequences and both steps.
    func errors(dtype: DType, pageSize: Int, backend: CPUBackend) throws -> (output: Double, logSumExp: Double) {
        let tokens = zip(cached, new).reduce(0) { $0 + $1.0 + $1.1 + pageSize }
        let harness = try CacheHarness(geometry, dtype: dtype, pageSize: pageSize, tokens: tokens, backend: backend)
        let sequences = data.map { _ in harness.cache.makeSequence() }
        let prefilled = cached.indices.filter { cached[$0] > 0 }
        let prefill = try harness.step(
            prefilled.map { sequences[$0] }, prefilled.map { data[$0] }, prefilled.map { cached[$0] }, parameters)
        let decode = try harness.step(sequences, data, new, parameters)
        let first = errors(prefill, sequences: prefilled) { 0..<cached[$0] }
        let second = errors(decode, sequences: Array(cached.indices)) { cached[$0]..<cached[$0] + new[$0] }
        return (max(first.output, second.output), max(first.logSumExp, second.logSumExp))
    }

    private func errors(
        _ result: AttentionResult, sequences: [Int], positions: (Int) -> Range<Int>
    ) -> (output: Double, logSumExp: Double) {
        let (outputs, sums) = (result.output.floats, result.logSumExp.floats)
        let width = geometry.queryHeads * geometry.outputWidth
        var (worst, worstSum, row) = (0.0, 0.0, 0)
        for sequence in sequences {
            var (found, expected) = ([Float](), [Double]())
            var (foundSum, expectedSum) = ([Float](), [Double]())
            for position in positions(sequence) {
                if let exact = exact[sequence][position] {
                    found += outputs[row * width..<(row + 1) * width]
                    expected += exact.output
                    foundSum += sums[row * geometry.queryHeads..<(row + 1) * geometry.queryHeads]
                    expectedSum += exact.logSumExp
                }
                row += 1
            }
            worst = max(worst, relativeError(found, expected))
            worstSum = max(worstSum, relativeError(foundSum, expectedSum))
        }
        return (worst, worstSum)
    }
}
