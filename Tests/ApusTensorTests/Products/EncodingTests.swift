import ApusTensor
import Testing

/// Packing into quantised blocks: never worse than rounding by the largest element.
@Suite struct EncodingTests {
    private let backend = CPUBackend(threads: 2)

    /// Blocks of 256 with everything that weights have been seen to be, and what they should not be.
    private static let inputs: [(String, [Float])] = {
        var state: UInt64 = 7
        func uniform() -> Float {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Float(state >> 40) / Float(1 << 24)
        }
        func normal() -> Float { (0..<12).reduce(Float(-6)) { sum, _ in sum + uniform() } }
        let weights = (0..<4096).map { _ in normal() * 0.02 }
        return [
            ("normal", weights), ("heavy tails", weights.map { $0 * $0 * $0 * 1e4 }),
            ("one outlier", weights.enumerated().map { $0 % 256 == 77 ? 3 : $1 }),
            ("above zero", weights.map { abs($0) + 1 }), ("below zero", weights.map { -abs($0) - 0.5 }),
            ("zeros", weights.map { _ in 0 }), ("constant", weights.map { _ in 0.3 }),
            ("tiny", weights.map { $0 * 1e-6 }), ("huge", weights.map { $0 * 1e5 }),
            ("alternating", weights.indices.map { $0 % 2 == 0 ? 1 : -1 }),
            ("two scales", weights.enumerated().map { $0 / 32 % 2 == 0 ? $1 : $1 * 100 }),
        ]
    }()

    private static func squaredError(_ a: [Float], _ b: [Float]) -> Double {
        zip(a, b).reduce(0) { $0 + (Double($1.0) - Double($1.1)) * (Double($1.0) - Double($1.1)) }
    }

    private static func half(_ value: Float) -> Float {
        // Rounds to 11 significant bits; enough of f16 for a reference whose scales are in its normal range.
        guard value != 0 else { return 0 }
        let unit = Float(sign: .plus, exponent: value.exponent - 10, significand: 1)
        // Beyond the format it saturates, as the encoder does.
        return ((value / unit).rounded(.toNearestOrEven) * unit).clamped(-65504, 65504)
    }

    /// A block by the usual rounding: the largest element sets the scale.
    private static func rounded(_ x: ArraySlice<Float>, _ dtype: DType) -> [Float] {
        switch dtype {
        case .q8_0:
            let d = half((x.map(abs).max() ?? 0) / 127)
            return x.map { d == 0 ? 0 : ($0 / d).rounded().clamped(-127, 127) * d }
        case .q4_0:
            let most = x.max { abs($0) < abs($1) } ?? 0
            let d = half(most / -8)
            return x.map { d == 0 ? 0 : ($0 / d).rounded().clamped(-8, 7) * d }
        default:
            let d = half(((x.max() ?? 0) - (x.min() ?? 0)) / 15)
            let least = half(x.min() ?? 0)
            return x.map { d == 0 ? least : (($0 - least) / d).rounded().clamped(0, 15) * d + least }
        }
    }

    /// A super-block by the usual rounding: each sub-block's range, then 6 bits for scales and minima.
    private static func roundedSuper(_ x: ArraySlice<Float>) -> [Float] {
        let starts = stride(from: x.startIndex, to: x.endIndex, by: 32)
        let minima = starts.map { -min(x[$0..<$0 + 32].min()!, 0) }
        let scales = zip(starts, minima).map { (x[$0..<$0 + 32].max()! + $1) / 15 }
        let (d, dmin) = (half(scales.max()! / 63), half(minima.max()! / 63))
        return zip(starts, zip(scales, minima)).flatMap { start, fit in
            let scale = d == 0 ? 0 : d * (fit.0 / d).rounded().clamped(0, 63)
            let minimum = dmin == 0 ? 0 : dmin * (fit.1 / dmin).rounded().clamped(0, 63)
            return x[start..<start + 32].map {
                scale == 0 ? -minimum : (($0 + minimum) / scale).rounded().clamped(0, 15) * scale - minimum
            }
        }
    }

    @Test(arguments: [DType.q8_0, .q4_0, .q4_1, .q4_K])
    func blocksAreNoWorseThanTheUsualRounding(_ dtype: DType) throws {
        for (name, values) in Self.inputs {
            let x = Tensor(values, shape: [8, 512])
            let packed = try x.encoded(as: dtype, backend: backend)
            #expect(packed.dtype == dtype && packed.shape == x.shape && packed.firstBadBlock == nil)
            let found = try packed.float32().floats
            for start in stride(from: 0, to: values.count, by: dtype.blockSize) {
                let block = values[start..<start + dtype.blockSize]
                let reference = dtype == .q4_K ? Self.roundedSuper(block) : Self.rounded(block, dtype)
                let (ours, usual) = (
                    Self.squaredError(Array(found[start..<start + dtype.blockSize]), Array(block)),
                    Self.squaredError(reference, Array(block))
                )
                // Blocks below f16's normal range round their scales more coarsely than the reference.
                let energy = block.reduce(0.0) { $0 + Double($1) * Double($1) }
                #expect(ours <= usual * 1.001 + energy * 1e-7 || name == "tiny", "\(name), block at \(start)")
                #expect(ours <= energy * 1.0001, "\(name), block at \(start): worse than zeros")
            }
        }
    }

    @Test func threadsDoNotMatter() throws {
        let x = Tensor(Self.inputs[0].1, shape: [16, 256])
        for dtype in [DType.q8_0, .q4_0, .q4_1, .q4_K] {
            let one = try x.encoded(as: dtype, backend: CPUBackend(threads: 1))
            let four = try x.encoded(as: dtype, backend: CPUBackend(threads: 4))
            #expect(try one.float32().floats == four.float32().floats)
        }
    }

    @Test func whatCannotBePackedIsAnError() {
        let odd = Tensor([Float](repeating: 1, count: 48), shape: [1, 48])
        #expect(throws: TensorError.self) { try odd.encoded(as: .q8_0, backend: backend) }
        #expect(throws: TensorError.self) { try odd.encoded(as: .q6_K, backend: backend) }
        #expect(throws: TensorError.self) { try odd.encoded(as: .i32, backend: backend) }
        #expect(throws: Never.self) { try odd.encoded(as: .bf16, backend: backend) }
    }
}

extension Float {
    fileprivate func clamped(_ low: Float, _ high: Float) -> Float { Swift.min(Swift.max(self, low), high) }
}

extension Tensor {
    /// The first element that expands to NaN or infinity.
    fileprivate var firstBadBlock: Int? {
        guard let values = try? float32().floats else { return 0 }
        return values.firstIndex { !$0.isFinite }
    }
}
