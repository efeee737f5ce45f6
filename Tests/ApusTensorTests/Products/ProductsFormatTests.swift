import CApusKernels
import Testing

/// Blocks written out by hand, element by element, from the definition of the formats.
extension ProductsSuite {
    private func expand(_ type: apus_dtype, _ block: [UInt8]) -> [Float] {
        var out = [Float](repeating: .nan, count: Int(apus_block_elements(type)))
        apus_dequantize(type, block, Int64(out.count), &out)
        return out
    }

    private func half(_ value: Float) -> [UInt8] { [UInt8(halfBits(value) & 255), UInt8(halfBits(value) >> 8)] }

    @Test func halvesExpandExactly() {
        let cases: [(UInt16, Float)] = [
            (0, 0), (0x8000, -0.0), (0x3c00, 1), (0xc000, -2), (0x7bff, 65504), (0x0001, 0x1p-24),
            (0x03ff, 0x1.ff8p-15),
            (0x0400, 0x1p-14), (0x7c00, .infinity), (0xfc00, -.infinity),
        ]
        for (bits, value) in cases {
            #expect(expand(APUS_F16, [UInt8(bits & 255), UInt8(bits >> 8)])[0].bitPattern == value.bitPattern)
        }
        #expect(expand(APUS_F16, [1, 0x7c])[0].isNaN)
    }

    @Test func blocksOf32ExpandByTheirDefinition() {
        let bytes = (0..<32).map { UInt8(truncatingIfNeeded: $0 * 37 + 11) }
        let q8 = expand(APUS_Q8_0, half(0.25) + bytes)
        for i in 0..<32 { #expect(q8[i] == 0.25 * Float(Int8(bitPattern: bytes[i]))) }
        let nibbles = Array(bytes[0..<16])
        let q40 = expand(APUS_Q4_0, half(-0.5) + nibbles)
        let q41 = expand(APUS_Q4_1, half(0.125) + half(3) + nibbles)
        for i in 0..<16 {
            #expect(q40[i] == -0.5 * Float(Int(nibbles[i] & 15) - 8))
            #expect(q40[i + 16] == -0.5 * Float(Int(nibbles[i] >> 4) - 8))
            #expect(q41[i] == 0.125 * Float(nibbles[i] & 15) + 3)
            #expect(q41[i + 16] == 0.125 * Float(nibbles[i] >> 4) + 3)
        }
    }

    @Test func superBlocksExpandByTheirDefinition() {
        let scales: [UInt8] = [1, 63, 17, 40, 33, 5, 60, 22]
        let minima: [UInt8] = [0, 9, 63, 31, 48, 2, 19, 57]
        var packed = [UInt8](repeating: 0, count: 12)
        for j in 0..<4 {
            packed[j] = scales[j] | (scales[j + 4] >> 4) << 6
            packed[j + 4] = minima[j] | (minima[j + 4] >> 4) << 6
            packed[j + 8] = (scales[j + 4] & 15) | (minima[j + 4] & 15) << 4
        }
        let quants = (0..<256).map { UInt8(truncatingIfNeeded: $0 * 29 + $0 / 7) & 63 }
        var low = [UInt8](repeating: 0, count: 128)
        for i in 0..<256 { low[i / 64 * 32 + i % 32] |= (quants[i] & 15) << (i % 64 < 32 ? 0 : 4) }
        let q4 = expand(APUS_Q4_K, half(0.5) + half(0.25) + packed + low)
        for i in 0..<256 {
            #expect(q4[i] == 0.5 * Float(scales[i / 32]) * Float(quants[i] & 15) - 0.25 * Float(minima[i / 32]))
        }
        var ql = [UInt8](repeating: 0, count: 128)
        var qh = [UInt8](repeating: 0, count: 64)
        for i in 0..<256 {
            let (half, part, l) = (i / 128, i % 128 / 32, i % 32)
            ql[half * 64 + part % 2 * 32 + l] |= (quants[i] & 15) << (part < 2 ? 0 : 4)
            qh[half * 32 + l] |= (quants[i] >> 4) << (2 * part)
        }
        let signed = (0..<16).map { Int8(truncatingIfNeeded: $0 * 23 - 90) }
        let q6 = expand(APUS_Q6_K, ql + qh + signed.map { UInt8(bitPattern: $0) } + half(0.125))
        for i in 0..<256 { #expect(q6[i] == 0.125 * Float(signed[i / 16]) * Float(Int(quants[i]) - 32)) }
    }
}
