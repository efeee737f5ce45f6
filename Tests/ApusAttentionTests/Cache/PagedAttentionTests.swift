import ApusAttention
import ApusTensor
import CApusKernels
import Testing

/// Attention over the paged cache against the float64 reference.
@Suite struct PagedAttentionTests {
    let backend = CPUBackend(threads: 3)

    static let bounds: [(dtype: DType, output: Double)] = [(.f32, 1e-6), (.f16, 1e-3), (.bf16, 6e-3), (.q8_0, 1.2e-2)]

    private func check(
        _ name: String, _ exact: RaggedCase, pageSize: Int, dtypes: [DType] = CacheLayout.dtypes, scale: Double = 1
    ) throws {
        for (dtype, bound) in Self.bounds where dtypes.contains(dtype) {
            let errors = try exact.errors(dtype: dtype, pageSize: pageSize, backend: backend)
            #expect(
                errors.output <= bound * scale && errors.logSumExp <= bound * scale,
                "\(name) \(dtype) page \(pageSize): output \(errors.output), lse \(errors.logSumExp)")
        }
    }

    @Test func everyGeometryDTypePageSizeAndInstructionSet() throws {
        for (name, geometry) in try oddGeometries() {
            let exact = RaggedCase(geometry, AttentionParameters(scale: 1 / Float(geometry.queryWidth).squareRoot()))
            for pageSize in [1, 3, 16, 64] { try check(name, exact, pageSize: pageSize) }
            for isa in ["portable", "avx2", "avx512", "avx512bf16"] where apus_select_isa(isa) == 0 {
                try check("\(isa) \(name)", exact, pageSize: 16)
            }
            _ = apus_select_isa("best")
        }
    }

    @Test(arguments: [1, 2, 7, 64, 100, 290]) func slidingWindows(window: Int) throws {
        for (name, geometry) in try oddGeometries() {
            let exact = RaggedCase(geometry, AttentionParameters(scale: 0.3, window: window))
            try check("window \(window) \(name)", exact, pageSize: 3)
        }
    }

    @Test func softcapSinksAndFullAttention() throws {
        for (name, geometry) in try oddGeometries() {
            let sinks = (0..<geometry.queryHeads).map { Float($0) - 3 }
            for (what, parameters) in [
                ("softcap", AttentionParameters(scale: 1, softcap: 2.5)),
                ("sinks", AttentionParameters(scale: 0.4, window: 70, sinks: sinks)),
                ("not causal", AttentionParameters(scale: 0.4, causal: false)),
            ] {
                try check("\(what) \(name)", RaggedCase(geometry, parameters), pageSize: 16)
            }
        }
    }

    @Test func largeScoresDoNotOverflow() throws {
        for (name, geometry) in try oddGeometries() {
            let exact = RaggedCase(geometry, AttentionParameters(scale: 60), shape: [(100, 3), (0, 40)])
            try check("large \(name)", exact, pageSize: 16, dtypes: [.f32], scale: 20)
        }
    }

    @Test func resultsOverPartsMerge() throws {
        var random = SplitMix(state: 11)
        let geometry = try CacheGeometry.gqa(queryHeads: 6, kvHeads: 3, headWidth: 24)
        let length = 150
        let data = SequenceData(geometry, length: length, random: &random)
        let parameters = AttentionParameters(scale: 0.2)
        let whole = try CacheHarness(geometry, dtype: .f32, pageSize: 16, tokens: 500, backend: backend)
        let sequence = whole.cache.makeSequence()
        _ = try whole.step([sequence], [data], [length - 1], parameters)
        let expected = try whole.step([sequence], [data], [1], parameters)

        // The last query over the tokens before `cut`, and over the rest, as two sequences.
        let cut = 61
        func part(_ range: Range<Int>) throws -> AttentionResult {
            let part = whole.cache.makeSequence()
            let batch = try whole.cache.begin([(part, range.count)])
            whole.cache.append(
                layer: 1, batch: batch, shared: nil, key: data.key.rows(range), value: data.value.rows(range))
            let queries = Tensor(
                (0..<range.count).flatMap { _ in data.query.rows(length - 1..<length).floats },
                shape: [range.count, geometry.queryHeads, geometry.queryWidth])
            let result = whole.cache.attend(queries, layer: 1, batch: batch, parameters: parameters)
            let last = range.count - 1..<range.count
            return AttentionResult(output: result.output.rows(last), logSumExp: result.logSumExp.rows(last))
        }
        let merged = try part(0..<cut).merged(with: part(cut..<length), backend: backend)
        #expect(relativeError(merged.output.floats, expected.output.floats.map(Double.init)) < 1e-6)
        #expect(relativeError(merged.logSumExp.floats, expected.logSumExp.floats.map(Double.init)) < 1e-6)
    }
}
