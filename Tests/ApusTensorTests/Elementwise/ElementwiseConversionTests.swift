import CApusKernels
import Testing

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

extension ElementwiseSuite {
    /// Values at and around every boundary, and random bit patterns.
    private var samples: [Float] {
        var random = SplitMix(state: 8)
        var values: [Float] = [
            0, -0.0, 1, -1, 448, 449, 464, 465, 65504, 65519.996, 65520, 1e30, -1e30, .infinity, -.infinity, .nan,
            0x1p-6, 0x1p-9, 0x1p-10, 0x1.000002p-10, 0x1.8p-9, 0x1p-14, 0x1p-24, 0x1p-25, 0x1.8p-24, 0x1p-140,
        ]
        for _ in 0..<4000 { values.append(Float(bitPattern: UInt32(truncatingIfNeeded: random.next()))) }
        for exponent in -30...17 {
            for _ in 0..<40 {
                values.append(
                    Float.random(in: -2...2, using: &random) * Float(sign: .plus, exponent: exponent, significand: 1))
            }
        }
        return values
    }

    @Test func bf16RoundsToNearestEven() {
        let x = samples
        onEveryInstructionSet { pool in
            var narrow = [UInt16](repeating: 1, count: x.count)
            apus_convert(pool, 1, Int64(x.count), APUS_FLOAT_F32, x, 0, APUS_FLOAT_BF16, &narrow, 0)
            var wide = [Float](repeating: 7, count: x.count)
            apus_convert(pool, 1, Int64(x.count), APUS_FLOAT_BF16, narrow, 0, APUS_FLOAT_F32, &wide, 0)
            for (i, value) in x.enumerated() {
                let bits = UInt64(value.bitPattern)
                let low = bits & 0xffff
                let up = low > 0x8000 || (low == 0x8000 && bits & 0x10000 != 0)
                let expected = Float(bitPattern: UInt32((bits >> 16 + (up ? 1 : 0)) << 16))
                #expect(value.isNaN ? wide[i].isNaN : wide[i] == expected, "\(value)")
            }
        }
    }

    @Test func f16MatchesSwiftsOwn() {
        #if !(os(macOS) && arch(x86_64))
        let x = samples
        onEveryInstructionSet { pool in
            var narrow = [UInt16](repeating: 1, count: x.count)
            apus_convert(pool, 1, Int64(x.count), APUS_FLOAT_F32, x, 0, APUS_FLOAT_F16, &narrow, 0)
            for (i, value) in x.enumerated() {
                let expected = Float16(value)
                let found = Float16(bitPattern: narrow[i])
                #expect(value.isNaN ? found.isNaN : found.bitPattern == expected.bitPattern, "\(value)")
            }
            let all = (0...UInt16.max).map { $0 }
            var wide = [Float](repeating: 7, count: all.count)
            apus_convert(pool, 1, Int64(all.count), APUS_FLOAT_F16, all, 0, APUS_FLOAT_F32, &wide, 0)
            for (bits, found) in zip(all, wide) {
                let expected = Float(Float16(bitPattern: bits))
                #expect(expected.isNaN ? found.isNaN : found.bitPattern == expected.bitPattern)
            }
        }
        #endif
    }

    @Test func f8RoundsToNearestEvenAndSaturates() {
        let bytes = (0...UInt8.max).map { $0 }
        func exact(_ byte: UInt8) -> Double {
            let (exponent, fraction) = (Int(byte >> 3 & 15), Double(byte & 7))
            let sign = byte & 0x80 != 0 ? -1.0 : 1.0
            if byte & 0x7f == 0x7f { return .nan }
            return exponent == 0
                ? sign * fraction * 0x1p-9
                : sign * (1 + fraction / 8) * Double(sign: .plus, exponent: exponent - 7, significand: 1)
        }
        let finite = bytes.filter { !exact($0).isNaN }
        let x = samples
        onEveryInstructionSet { pool in
            var wide = [Float](repeating: 7, count: 256)
            apus_convert(pool, 1, 256, APUS_FLOAT_F8E4M3, bytes, 0, APUS_FLOAT_F32, &wide, 0)
            for byte in bytes {
                let expected = exact(byte)
                #expect(expected.isNaN ? wide[Int(byte)].isNaN : Double(wide[Int(byte)]) == expected)
            }
            var narrow = [UInt8](repeating: 1, count: x.count)
            apus_convert(pool, 1, Int64(x.count), APUS_FLOAT_F32, x, 0, APUS_FLOAT_F8E4M3, &narrow, 0)
            for (i, value) in x.enumerated() {
                let found = exact(narrow[i])
                if value.isNaN {
                    #expect(found.isNaN)
                    continue
                }
                let bounded = Double(min(max(value, -448), 448))
                let nearest = finite.map { abs(exact($0) - bounded) }.min()!
                let ties = Set(finite.filter { abs(exact($0) - bounded) == nearest }.map { $0 & 0x7f })
                #expect(abs(found - bounded) == nearest, "\(value)")
                if ties.count > 1 { #expect(narrow[i] & 1 == 0, "\(value) is a tie") }
                #expect(value.sign == (narrow[i] & 0x80 != 0 ? .minus : .plus))
            }
        }
    }

    @Test func theFirstNonFiniteElementIsFound() {
        for count in [1, 5, 2047, 2048, 70_000, 300_000] {
            for place in Set([0, count / 3, count - 1]) {
                var single = [Float](repeating: .greatestFiniteMagnitude, count: count)
                var half = [UInt16](repeating: 0x7bff, count: count)
                var brain = [UInt16](repeating: 0xff7f, count: count)
                onEveryInstructionSet { pool in
                    #expect(apus_find_non_finite(pool, Int64(count), APUS_FLOAT_F32, single) == -1)
                    #expect(apus_find_non_finite(pool, Int64(count), APUS_FLOAT_F16, half) == -1)
                    #expect(apus_find_non_finite(pool, Int64(count), APUS_FLOAT_BF16, brain) == -1)
                }
                (single[count - 1], half[count - 1], brain[count - 1]) = (.nan, 0x7e00, 0x7fc0)
                (single[place], half[place], brain[place]) = (-.infinity, 0xfc00, 0x7f80)
                onEveryInstructionSet { pool in
                    #expect(apus_find_non_finite(pool, Int64(count), APUS_FLOAT_F32, single) == Int64(place))
                    #expect(apus_find_non_finite(pool, Int64(count), APUS_FLOAT_F16, half) == Int64(place))
                    #expect(apus_find_non_finite(pool, Int64(count), APUS_FLOAT_BF16, brain) == Int64(place))
                }
            }
        }
    }
}
