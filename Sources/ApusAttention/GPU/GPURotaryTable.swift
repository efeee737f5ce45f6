import ApusTensor

/// Cosine and sine of every position that a cache can hold, on a GPU: computed once, in float64, and stored in float32 as
/// ``RotaryEmbedding/rows(_:)`` does.
public final class GPURotaryTable: Sendable {
    /// What was tabulated.
    public let width: Int
    /// Which elements form pairs.
    public let style: RotaryStyle
    /// Positions.
    public let count: Int
    private let memory: CUDABuffer

    /// Address of `[position][width / 2]` float32.
    public var cosine: UInt64 { memory.address }
    /// Likewise.
    public var sine: UInt64 { memory.address + UInt64(count * (width / 2) * 4) }

    /// Tabulates positions 0 ..< `count`: 4 `width` bytes each.
    public init(_ rotary: RotaryEmbedding, count: Int, stream: CUDAStream) throws {
        width = rotary.width
        style = rotary.style
        self.count = count
        memory = try CUDABuffer(byteCount: max(count * width * 4, 4), stream: stream)
        guard count * width > 0 else { return }
        let positions = try stream.upload((0..<Int32(count)).map { $0 })
        let frequencies = try stream.upload(rotary.inverseFrequencies)
        try stream.device.modules.kernel("rotary_angles", in: KernelSources.source("rope.cu")).launch(
            grid: CUDAExtent(min(4096, (count * (width / 2) + 255) / 256)), block: 256, on: stream, .buffer(positions),
            .buffer(frequencies), .value(rotary.magnitude), .value(cosine), .value(sine), .value(Int32(count)),
            .value(Int32(width / 2)))
    }
}
