#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Exponentials of many numbers, and sums of many, by vectors: a call of the C library for each would be most of what a draw
/// from the whole vocabulary costs.
enum Exponentials {
    private typealias Lanes = SIMD16<Float>
    private static let width = Lanes.scalarCount

    /// exp((x - shift) * scale) of each x, for results up to 1; relative error below 3e-7, and 0 below 1e-37.
    static func scaled(_ values: UnsafeBufferPointer<Float>, shift: Float, scale: Float) -> [Float] {
        Array(unsafeUninitializedCapacity: values.count) { out, count in
            count = values.count
            guard let start = values.baseAddress, let target = out.baseAddress else { return }
            let blocks = values.count / width
            for index in 0..<blocks {
                let offset = index * MemoryLayout<Lanes>.size
                let x = UnsafeRawPointer(start).loadUnaligned(fromByteOffset: offset, as: Lanes.self)
                UnsafeMutableRawPointer(target).storeBytes(
                    of: exponential((x - shift) * scale), toByteOffset: offset, as: Lanes.self)
            }
            var rest = Lanes(repeating: 0)
            for index in blocks * width..<values.count { rest[index % width] = (values[index] - shift) * scale }
            rest = exponential(rest)
            for index in blocks * width..<values.count { target[index] = rest[index % width] }
        }
    }

    /// The logarithm of the sum of exponentials, given the largest number.
    static func logSum(_ values: UnsafeBufferPointer<Float>, largest: Float) -> Double {
        let weights = scaled(values, shift: largest, scale: 1)
        return Double(largest) + log(weights.withUnsafeBufferPointer { sum($0) })
    }

    /// The sum, in double precision.
    static func sum(_ values: UnsafeBufferPointer<Float>) -> Double {
        var sums = SIMD8<Double>.zero
        let blocks = values.count / 8
        if let start = values.baseAddress {
            for index in 0..<blocks {
                let x = UnsafeRawPointer(start).loadUnaligned(fromByteOffset: index * 32, as: SIMD8<Float>.self)
                sums += SIMD8<Double>(x)
            }
        }
        return values[(blocks * 8)...].reduce(sums.sum()) { $0 + Double($1) }
    }

    /// x = n ln 2 + r with |r| <= ln 2 / 2; exp(r) by its series to the sixth power, times 2^n through the exponent's bits.
    private static func exponential(_ x: Lanes) -> Lanes {
        let rounding = Lanes(repeating: 12_582_912)  // 1.5 * 2^23: adding it rounds to an integer in the low bits
        let clamped = x.replacing(with: -87, where: x .< -87)
        let shifted = clamped * 1.442_695_04 + rounding
        let n = shifted - rounding
        let r = clamped - n * 0.693_359_375 + n * 2.121_944_4e-4
        var series = Lanes(repeating: 1.388_888_9e-3)
        series = series * r + 8.333_333_3e-3
        series = series * r + 4.166_666_7e-2
        series = series * r + 0.166_666_67
        series = series * r + 0.5
        series = series * r * r + r + 1
        let exponent = (unsafeBitCast(shifted, to: SIMD16<Int32>.self) &+ 127) &<< 23
        let result = series * unsafeBitCast(exponent, to: Lanes.self)
        return result.replacing(with: 0, where: x .< -85)
    }
}
