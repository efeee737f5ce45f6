import ApusTensor

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// A random append to check.
struct AppendCase: CustomStringConvertible {
    let format: GPUCacheFormat
    let tokens: Int
    let lengths: [Int]
    let rotary: RotaryEmbedding?
    let norm: Bool
    let seed: UInt64

    init(_ random: inout SplitMix64) throws {
        let family: AttentionCheck.Family = [.latent, .latent, .tied, .grouped].randomElement(using: &random)!
        let geometry = try DecodeCase.geometry(family, &random)
        let canBeFP8 = geometry.keyKept == .once
        let isFP8 = canBeFP8 && Bool.random(using: &random)
        let pages = isFP8 ? [8, 16, 64, 128] : [1, 3, 16, 64, 128]
        format = try GPUCacheFormat(
            geometry: geometry, pageSize: pages.randomElement(using: &random)!, element: isFP8 ? .f8e4m3 : .bf16)
        tokens = [1, 1, 2, 5, 16].randomElement(using: &random)!
        lengths = (0..<[1, 2, 5].randomElement(using: &random)!).map { _ in
            [0, 1, 17, Int.random(in: 1...500, using: &random)].randomElement(using: &random)!
        }
        let styles: [RotaryStyle] = [.halfSplit, .interleaved]
        rotary =
            Int.random(in: 0..<5, using: &random) == 0
            ? nil
            : RotaryEmbedding(
                width: [geometry.key, geometry.key / 2].randomElement(using: &random)!, theta: 10000,
                scaling: Bool.random(using: &random)
                    ? .none
                    : .yarn(factor: 4, betaFast: 32, betaSlow: 1, originalContext: 128, attentionFactor: 1.1),
                style: styles.randomElement(using: &random)!)
        norm = family == .latent && Bool.random(using: &random)
        seed = random.next()
    }

    var description: String {
        "append, \(format.geometry), page size \(format.pageSize), \(format.element.rawValue), \(tokens) tokens, "
            + "lengths \(lengths), rotary width \(rotary?.width ?? 0) \(rotary?.style.rawValue ?? ""), norm \(norm), "
            + "seed \(seed)"
    }
}

extension AttentionCheck {
    /// Appends to pages of NaN and compares every byte of them: the new tokens' elements with float64, all others with NaN.
    func checkAppend(_ test: AppendCase, _ outcome: inout Outcome) throws {
        let format = test.format
        let geometry = format.geometry
        let page = format.pageSize
        let used = test.lengths.map { ($0 + page - 1) / page }
        let pageStride = max(used.max() ?? 0, 1)
        var random = SplitMix64(state: test.seed)
        var order = Array(0..<Int32(used.reduce(0, +) + 1))
        order.shuffle(using: &random)
        var table = [Int32](repeating: 1 << 30, count: test.lengths.count * pageStride)
        for (sequence, count) in used.enumerated() {
            for i in 0..<count { table[sequence * pageStride + i] = order.removeLast() }
        }
        let pageCount = used.reduce(0, +) + 1
        let newTokens = test.lengths.count * test.tokens
        let rows = randomBF16(newTokens * geometry.groups * format.rowWidth, seed: random.next())
        let keys = randomBF16(format.keyIsOnce ? newTokens * geometry.key : 1, seed: random.next())
        let weight = (0..<geometry.groups * geometry.outputWidth).map { _ in Float.random(in: 0.5...2, using: &random) }

        let cache = try CUDABuffer(byteCount: pageCount * format.pageBytes, stream: stream)
        try stream.fill(cache, with: 0xff)
        let append = try GPUCacheAppend(
            format: format, tokens: test.tokens, rotary: test.rotary, norm: test.norm, stream: stream)
        let (deviceRows, deviceKeys) = (try stream.upload(rows), try stream.upload(keys))
        let (deviceTable, deviceLengths) = (try stream.upload(table), try stream.upload(test.lengths.map(Int32.init)))
        let deviceWeight = try stream.upload(weight)
        let epsilon: Float = 1e-5
        try append.run(
            GPUCacheAppend.Layer(
                rows: deviceRows.address, key: format.keyIsOnce ? deviceKeys.address : 0, cache: cache.address,
                pageTable: deviceTable.address, pageStride: pageStride, lengths: deviceLengths.address,
                norm: test.norm ? .init(weight: deviceWeight.address, epsilon: epsilon) : nil),
            batch: test.lengths.count, on: stream)
        let host = HostPages(format: format, bytes: try stream.download(cache, count: cache.byteCount))

        var untouched = [Bool](repeating: true, count: cache.byteCount)
        func compare(_ found: Double, _ wanted: Double, magnitude: Double, tolerance: Double) -> Bool {
            let error = abs(found - wanted) / max(magnitude, 1e-30)
            outcome.worstError = max(outcome.worstError, error.isNaN ? .infinity : error)
            return error <= tolerance
        }
        for (sequence, length) in test.lengths.enumerated() {
            for token in 0..<test.tokens where length - test.tokens + token >= 0 {
                let position = length - test.tokens + token
                let pageNumber = Int(table[sequence * pageStride + position / page])
                let inPage = position % page
                let new = sequence * test.tokens + token
                for group in 0..<geometry.groups {
                    let source = (new * geometry.groups + group) * format.rowWidth
                    var wanted = (0..<format.rowWidth).map { double(rows[source + $0]) }
                    if test.norm {
                        let mean = wanted.reduce(0) { $0 + $1 * $1 } / Double(geometry.outputWidth)
                        let inverse = 1 / (mean + Double(epsilon)).squareRoot()
                        for i in wanted.indices {
                            wanted[i] *= inverse * Double(weight[group * geometry.outputWidth + i])
                        }
                    }
                    if !format.keyIsOnce { rotate(&wanted, from: geometry.outputWidth, at: position, by: test.rotary) }
                    let largest = wanted.reduce(0) { max($0, abs($1)) }
                    for (i, value) in wanted.enumerated() {
                        let found = host.row(page: pageNumber, token: inPage, group: group, column: i)
                        // bf16 rounds to 8 bits; e4m3 to 4 bits, or where subnormal to steps of the scale.
                        let isFP8 = format.element == .f8e4m3
                        let magnitude = isFP8 ? max(abs(value), largest / 448 / 32) : max(abs(value), largest / 4096)
                        guard compare(found, value, magnitude: magnitude, tolerance: isFP8 ? 0.0626 : 0.0041) else {
                            outcome.failures.append("group \(group), column \(i): \(found), expected \(value): \(test)")
                            return
                        }
                    }
                    mark(&untouched, format, page: pageNumber, token: inPage, group: group)
                }
                guard format.keyIsOnce else { continue }
                var wanted = (0..<geometry.key).map { double(keys[new * geometry.key + $0]) }
                rotate(&wanted, from: 0, at: position, by: test.rotary)
                for (i, value) in wanted.enumerated() {
                    let found = host.key(page: pageNumber, token: inPage, column: i)
                    guard compare(found, value, magnitude: max(abs(value), 1e-3), tolerance: 0.0041) else {
                        outcome.failures.append("key, column \(i): \(found), expected \(value): \(test)")
                        return
                    }
                }
            }
        }
        if let byte = untouched.indices.first(where: { untouched[$0] && host.bytes[$0] != 0xff }) {
            outcome.failures.append("byte \(byte) of the pages, of no new token, has changed: \(test)")
        }
    }

    private func double(_ bits: UInt16) -> Double { Double(Float(bitPattern: UInt32(bits) << 16)) }

    private func rotate(_ row: inout [Double], from base: Int, at position: Int, by rotary: RotaryEmbedding?) {
        guard let rotary else { return }
        for (i, frequency) in rotary.inverseFrequencies.enumerated() {
            let first = base + (rotary.style == .interleaved ? 2 * i : i)
            let second = base + (rotary.style == .interleaved ? 2 * i + 1 : i + rotary.width / 2)
            let angle = Double(position) * frequency
            let (cosine, sine) = (cos(angle) * rotary.magnitude, sin(angle) * rotary.magnitude)
            (row[first], row[second]) = (
                row[first] * cosine - row[second] * sine, row[second] * cosine + row[first] * sine
            )
        }
    }

    /// Notes the bytes of a token as written: its row in a group, its scale, the key kept once.
    private func mark(_ untouched: inout [Bool], _ format: GPUCacheFormat, page: Int, token: Int, group: Int) {
        let base = page * format.pageBytes
        let rowBytes = format.rowsBytes / (format.geometry.groups * format.pageSize)
        let row = base + (group * format.pageSize + token) * rowBytes
        for i in row..<row + rowBytes { untouched[i] = false }
        if format.keyIsOnce {
            let key = base + format.rowsBytes + token * format.geometry.key * 2
            for i in key..<key + format.geometry.key * 2 { untouched[i] = false }
        }
        if format.element == .f8e4m3 {
            let scale = base + format.rowsBytes + format.keysBytes + (group * format.pageSize + token) * 4
            for i in scale..<scale + 4 { untouched[i] = false }
        }
    }
}
