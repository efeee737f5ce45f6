/// Two rates of a GPU, measured: what its memory gives and what its matrix units give.
public struct CUDAMeasurement: Sendable {
    /// The GPU that is measured.
    public let device: CUDADevice
    private let stream: CUDAStream

    /// Measures on a stream of its own.
    public init(device: CUDADevice) throws {
        self.device = device
        stream = try CUDAStream(device: device)
    }

    /// Bytes a second of a copy within the GPU's memory, read and written bytes together: the median of ten copies, each
    /// many times larger than the L2 cache.
    public func copyBandwidth() throws -> Double {
        let count = min(2 << 30, try device.memory().free / 4)
        let source = try CUDABuffer(byteCount: count, stream: stream)
        let target = try CUDABuffer(byteCount: count, stream: stream)
        try stream.fill(source, with: 0x5a)
        let seconds = try median(of: 10, warmUp: 3) { try stream.copy(count, from: source, to: target) }
        return 2 * Double(count) / seconds
    }

    /// Operations a second of bf16 products of `size` x `size` matrices of random numbers, by cuBLASLt: the median of five
    /// times ten products. (Zeros would be faster: they cost less power.)
    public func bf16ProductRate(size: Int = 8192) throws -> Double {
        let x = try stream.upload(randomBF16(size * size, seed: 1))
        let weight = try stream.upload(randomBF16(size * size, seed: 2))
        let out = try CUDABuffer(byteCount: 2 * size * size, stream: stream)
        let product = try CUDAMatrixProduct(bf16: size, size, size, stream: stream)
        let repeats = 10
        let seconds = try median(of: 5, warmUp: 1) {
            for _ in 0..<repeats { try product.run(x: x, weight: weight, out: out) }
        }
        let cube = Double(size) * Double(size) * Double(size)
        return 2 * cube * Double(repeats) / seconds
    }

    private func median(of count: Int, warmUp: Int, _ work: () throws -> Void) throws -> Double {
        for _ in 0..<warmUp { try work() }
        let marks = try (0...count).map { _ in try CUDAEvent(device: device) }
        try marks[0].record(on: stream)
        for mark in marks.dropFirst() {
            try work()
            try mark.record(on: stream)
        }
        try stream.synchronize()
        let seconds = try zip(marks.dropFirst(), marks).map { try $0.seconds(since: $1) }.sorted()
        return (seconds[(count - 1) / 2] + seconds[count / 2]) / 2
    }
}

/// Numbers spread evenly over [-1, 1], rounded towards zero to bf16, as their bits.
package func randomBF16(_ count: Int, seed: UInt64) -> [UInt16] {
    var random = SplitMix64(state: seed)
    return (0..<count).map { _ in
        UInt16(truncatingIfNeeded: (Float(Int32(truncatingIfNeeded: random.next() >> 32)) / 0x1p31).bitPattern >> 16)
    }
}

/// A small generator with a seed, so that a run can be repeated.
package struct SplitMix64: RandomNumberGenerator {
    package var state: UInt64

    package init(state: UInt64) { self.state = state }

    package mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ z >> 30) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ z >> 27) &* 0x94d0_49bb_1331_11eb
        return z ^ z >> 31
    }
}
