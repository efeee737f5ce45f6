import ApusTensor

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Checks of the GPU's attention kernels on random cases: `apus check attention`.
///
/// The fast kernels are held against the naive one, which computes in float64 on the GPU, and the naive one against float64
/// on the host in cases that are small enough. Lengths are odd, 0 and 1 among them; pages lie shuffled; what no token
/// fills is NaN; outputs are poisoned before every run; three runs must give the same bits.
public struct AttentionCheck: Sendable {
    /// Kinds of cases.
    public enum Family: String, Sendable, CaseIterable {
        /// MLA and GLA.
        case latent
        /// GTA.
        case tied
        /// MHA, MQA, GQA.
        case grouped
        /// Latent and tied over an FP8 cache.
        case fp8
        /// Appending to the cache, all geometries.
        case append
    }

    /// What a family's cases gave.
    public struct Outcome: Sendable {
        /// The family.
        public let family: Family
        /// Cases run.
        public let cases: Int
        /// The largest relative error, ||a - b|| / ||b|| over a sequence (of an element for appending).
        public var worstError = 0.0
        /// Cases in which the naive kernel was held against the host, and its largest relative error there.
        public var hostCases = 0
        /// See ``hostCases``.
        public var worstNaiveError = 0.0
        /// What is wrong, a line a failing case.
        public var failures: [String] = []
    }

    /// The largest relative error that passes: bf16 weights and outputs.
    public static let tolerance = 5e-3
    /// The same for the naive kernel, whose outputs are float32.
    static let naiveTolerance = 1e-5

    let stream: CUDAStream

    /// Checks on a GPU, on a stream of their own.
    public init(device: CUDADevice) throws {
        stream = try CUDAStream(device: device)
    }

    /// Runs `cases` random cases. The same seed gives the same cases.
    public func run(_ family: Family, cases: Int, seed: UInt64) throws -> Outcome {
        var random = SplitMix64(state: seed)
        var outcome = Outcome(family: family, cases: cases)
        for _ in 0..<cases {
            if family == .append {
                try checkAppend(AppendCase(&random), &outcome)
            } else {
                try check(DecodeCase(family, &random), &outcome)
            }
        }
        return outcome
    }

    private func check(_ test: DecodeCase, _ outcome: inout Outcome) throws {
        let format = test.format
        let step = try GPURandomStep(
            format: format, queryTokens: test.queryTokens, lengths: test.lengths, gain: test.gain, seed: test.seed,
            stream: stream)
        let scale = 1 / Float(format.geometry.queryWidth).squareRoot()
        let attention = try GPUDecodeAttention(
            format: format, queryTokens: test.queryTokens, scale: scale, maximumBatch: test.lengths.count,
            stream: stream)
        try attention.schedule(lengths: step.deviceLengths.address, batch: test.lengths.count, on: stream)
        var runs: [(output: [UInt16], logSumExp: [UInt32])] = []
        for _ in 0..<3 {
            try stream.fill(step.output, with: 0xff)
            try stream.fill(step.logSumExp, with: 0xff)
            try attention.run(step.layer(), on: stream)
            runs.append(
                (
                    try stream.download(step.output, count: step.outputCount),
                    try stream.download(step.logSumExp, count: step.rows)
                ))
        }
        func fail(_ problem: String) { outcome.failures.append("\(problem): \(test)") }
        if runs[1] != runs[0] || runs[2] != runs[0] { return fail("runs differ in their bits") }
        let exact = try step.naive(scale: scale)
        if let problem = naiveProblem(test, step, exact, scale, &outcome) { return fail(problem) }

        let perSequence = test.queryTokens * format.geometry.queryHeads
        let width = format.geometry.outputWidth
        for sequence in test.lengths.indices {
            let rows = sequence * perSequence..<(sequence + 1) * perSequence
            var (difference, norm) = (0.0, 0.0)
            for i in rows.lowerBound * width..<rows.upperBound * width {
                let found = Double(Float(bitPattern: UInt32(runs[0].output[i]) << 16))
                let wanted = Double(exact.output[i])
                difference += (found - wanted) * (found - wanted)
                norm += wanted * wanted
            }
            let error = norm > 0 ? (difference / norm).squareRoot() : difference.squareRoot()
            guard error <= Self.tolerance else {
                return fail("sequence \(sequence): relative error \(error)")
            }
            outcome.worstError = max(outcome.worstError, error)
            for row in rows {
                let (found, wanted) = (Float(bitPattern: runs[0].logSumExp[row]), exact.logSumExp[row])
                guard found == wanted || abs(found - wanted) < 1e-3 * (1 + abs(wanted)) else {
                    return fail("row \(row): log-sum-exp \(found), expected \(wanted)")
                }
            }
        }
    }

    /// Holds some rows of the naive kernel against the host where that takes a moment.
    private func naiveProblem(
        _ test: DecodeCase, _ step: GPURandomStep, _ exact: (output: [Float], logSumExp: [Float]), _ scale: Float,
        _ outcome: inout Outcome
    ) -> String? {
        let geometry = test.format.geometry
        guard step.cache.byteCount < 4 << 20, test.lengths.max() ?? 0 < 300,
            let bytes = try? stream.download(step.cache, count: step.cache.byteCount, as: UInt8.self),
            let queries = try? stream.download(step.query, count: step.queryCount, as: UInt16.self)
        else { return nil }
        let host = HostPages(format: test.format, bytes: bytes)
        outcome.hostCases += 1
        let (width, queryWidth) = (geometry.outputWidth, geometry.queryWidth)
        for row in stride(from: 0, to: step.rows, by: max(1, step.rows / 24)) {
            let head = row % geometry.queryHeads
            let token = row / geometry.queryHeads % test.queryTokens
            let sequence = row / geometry.queryHeads / test.queryTokens
            let (output, logSumExp) = host.attend(
                query: queries[row * queryWidth..<(row + 1) * queryWidth], head: head,
                pages: step.hostPageTable[sequence * step.pageStride..<(sequence + 1) * step.pageStride],
                visible: test.lengths[sequence] - test.queryTokens + token + 1, scale: Double(scale))
            var (difference, norm) = (0.0, 0.0)
            for i in 0..<width {
                let found = Double(exact.output[row * width + i])
                difference += (found - output[i]) * (found - output[i])
                norm += output[i] * output[i]
            }
            let error = norm > 0 ? (difference / norm).squareRoot() : difference.squareRoot()
            let found = Double(exact.logSumExp[row])
            let same = found == logSumExp || abs(found - logSumExp) < Self.naiveTolerance * (1 + abs(logSumExp))
            guard error <= Self.naiveTolerance, same else {
                return "naive kernel, row \(row): relative error \(error), log-sum-exp \(found), expected \(logSumExp)"
            }
            outcome.worstNaiveError = max(outcome.worstNaiveError, error)
        }
        return nil
    }
}
