#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// The elements of GPU pages on the host, in float64, and attention over them: what the naive kernel is held against.
struct HostPages {
    let format: GPUCacheFormat
    let bytes: [UInt8]

    /// Element `column` of a token's row in a group, times its scale.
    func row(page: Int, token: Int, group: Int, column: Int) -> Double {
        let index = (group * format.pageSize + token) * format.rowWidth + column
        let base = page * format.pageBytes
        guard format.element == .f8e4m3 else { return bf16(base + index * 2) }
        return e4m3(bytes[base + index]) * scale(page: page, token: token, group: group)
    }

    /// Element `column` of a token's key kept once.
    func key(page: Int, token: Int, column: Int) -> Double {
        bf16(page * format.pageBytes + format.rowsBytes + (token * format.geometry.key + column) * 2)
    }

    /// The scale of a token's row in a group.
    func scale(page: Int, token: Int, group: Int) -> Double {
        let at =
            page * format.pageBytes + format.rowsBytes + format.keysBytes + (group * format.pageSize + token) * 4
        return Double(Float(bitPattern: (0..<4).reduce(0) { $0 | UInt32(bytes[at + $1]) << (8 * UInt32($1)) }))
    }

    private func bf16(_ at: Int) -> Double {
        Double(Float(bitPattern: UInt32(bytes[at]) << 16 | UInt32(bytes[at + 1]) << 24))
    }

    private func e4m3(_ code: UInt8) -> Double {
        let exponent = Int(code >> 3 & 15)
        let mantissa = Double(code & 7)
        let magnitude = exponent == 0 ? mantissa / 512 : (8 + mantissa) * pow(2, Double(exponent - 10))
        return code & 128 == 0 ? magnitude : -magnitude
    }

    /// Attention of one query row over the first `visible` tokens of a sequence: outputs and log-sum-exp.
    func attend(
        query: ArraySlice<UInt16>, head: Int, pages: ArraySlice<Int32>, visible: Int, scale: Double
    ) -> (output: [Double], logSumExp: Double) {
        let geometry = format.geometry
        let group = head / geometry.headsPerGroup
        let q = query.map { Double(Float(bitPattern: UInt32($0) << 16)) }
        func place(_ token: Int) -> (page: Int, token: Int) {
            (Int(pages[pages.startIndex + token / format.pageSize]), token % format.pageSize)
        }
        let scores = (0..<max(visible, 0)).map { position -> Double in
            let (page, token) = place(position)
            var score = 0.0
            for i in 0..<geometry.shared { score += q[i] * row(page: page, token: token, group: group, column: i) }
            for i in 0..<geometry.key {
                score +=
                    q[geometry.shared + i]
                    * (format.keyIsOnce
                        ? key(page: page, token: token, column: i)
                        : row(page: page, token: token, group: group, column: geometry.outputWidth + i))
            }
            return score * scale
        }
        var output = [Double](repeating: 0, count: geometry.outputWidth)
        guard let largest = scores.max() else { return (output, -.infinity) }
        let sum = scores.reduce(0) { $0 + exp($1 - largest) }
        for (position, score) in scores.enumerated() {
            let weight = exp(score - largest) / sum
            let (page, token) = place(position)
            for i in output.indices { output[i] += weight * row(page: page, token: token, group: group, column: i) }
        }
        return (output, largest + log(sum))
    }
}
