import ApusAttention
import ApusTensor
import Testing

/// A row's bits depend on its query and its sequence only.
@Suite struct BatchInvarianceTests {
    private static let length = 600

    private func rows(
        _ geometry: CacheGeometry, _ dtype: DType, chunks: [Int], pageSize: Int = 16, threads: Int = 2,
        company: Bool = false, parameters: AttentionParameters
    ) throws -> [UInt32] {
        var random = SplitMix(state: 5)
        let data = SequenceData(geometry, length: Self.length, random: &random)
        let other = SequenceData(geometry, length: Self.length * 2, random: &random)
        let harness = try CacheHarness(
            geometry, dtype: dtype, pageSize: pageSize, tokens: 4 * Self.length, backend: CPUBackend(threads: threads),
            seed: UInt64(chunks.count))
        let sequence = harness.cache.makeSequence()
        let friend = harness.cache.makeSequence()
        var bits: [UInt32] = []
        for (index, chunk) in chunks.enumerated() {
            let result: AttentionResult
            if company {
                let count = 1 + index * 37 % 90
                if friend.length + count > other.length { try harness.cache.truncate(friend, to: 0) }
                let pair = try harness.step([friend, sequence], [other, data], [count, chunk], parameters)
                result = AttentionResult(
                    output: pair.output.rows(count..<count + chunk),
                    logSumExp: pair.logSumExp.rows(count..<count + chunk))
            } else {
                result = try harness.step([sequence], [data], [chunk], parameters)
            }
            for row in 0..<chunk {
                bits += result.output.rows(row..<row + 1).floats.map(\.bitPattern)
                bits += result.logSumExp.rows(row..<row + 1).floats.map(\.bitPattern)
            }
        }
        return bits
    }

    @Test(arguments: [DType.f32, .bf16, .q8_0]) func chunksBatchesPagesAndThreadsDoNotMatter(dtype: DType) throws {
        let chunkings = [
            [1, 2, 3, 58, 1, 200, 35, 1, 1, 1, 1, 296], [64, 64, 128, 256, 88],
            [500] + Array(repeating: 1, count: 100), [7, 96, 97, 400],
        ]
        for (name, geometry) in try oddGeometries() {
            for parameters in [
                AttentionParameters(scale: 0.25), AttentionParameters(scale: 0.25, window: 130, softcap: 20),
            ] {
                let whole = try rows(geometry, dtype, chunks: [Self.length], parameters: parameters)
                #expect(chunkings.allSatisfy { $0.reduce(0, +) == Self.length })
                for (index, chunks) in chunkings.enumerated() {
                    let cut = try rows(
                        geometry, dtype, chunks: chunks, pageSize: [1, 3, 64, 100][index], threads: index + 1,
                        company: index % 2 == 0, parameters: parameters)
                    let isEqual = cut == whole
                    #expect(isEqual, "\(name), \(dtype), chunks \(chunks.prefix(6))")
                }
            }
        }
    }
}
