import ApusTensor

/// Writes the new tokens of a step into the pages of a GPU cache, in one launch a layer: rotary position embedding on the
/// key part, RMSNorm on what is read as value where a model has it (latents), quantising where the cache is FP8.
public final class GPUCacheAppend: Sendable {
    /// RMSNorm of what is read as value, over each group's width.
    public struct Norm: Sendable {
        /// Address of `[group][shared | value]` float32 on the GPU.
        public var weight: UInt64
        /// Added to the mean of the squares.
        public var epsilon: Float

        /// A norm.
        public init(weight: UInt64, epsilon: Float) {
            self.weight = weight
            self.epsilon = epsilon
        }
    }

    /// Addresses of one layer, on the GPU.
    public struct Layer: Sendable {
        /// `[sequence][new token][group][shared | value | own key]` bf16, before norm and rotation; a multiple of 4.
        public var rows: UInt64
        /// `[sequence][new token][once key]` bf16, before rotation; 0 where each group has its own key.
        public var key: UInt64
        /// The first page; a multiple of 128.
        public var cache: UInt64
        /// `[sequence][pageStride]` int32: page numbers.
        public var pageTable: UInt64
        /// Entries of the table a sequence.
        public var pageStride: Int
        /// `[sequence]` int32: tokens, the new ones included.
        public var lengths: UInt64
        /// The norm, where planned for.
        public var norm: Norm?

        /// Addresses of one layer.
        public init(
            rows: UInt64, key: UInt64, cache: UInt64, pageTable: UInt64, pageStride: Int, lengths: UInt64,
            norm: Norm? = nil
        ) {
            self.rows = rows
            self.key = key
            self.cache = cache
            self.pageTable = pageTable
            self.pageStride = pageStride
            self.lengths = lengths
            self.norm = norm
        }
    }

    /// `struct Append` of `append.cu`.
    private struct Parameters: BitwiseCopyable {
        var rows: UInt64, key: UInt64, weight: UInt64, inverseFrequencies: UInt64, cache: UInt64, pageTable: UInt64
        var lengths: UInt64
        var pageBytes: Int64
        var pageStride: Int32, tokens: Int32, groups: Int32
        var epsilon: Float, magnitude: Float
        var padding: Int32 = 0
    }

    /// What the pages hold.
    public let format: GPUCacheFormat
    /// New tokens of each sequence and step.
    public let tokens: Int
    private let hasNorm: Bool
    private let magnitude: Float
    private let inverseFrequencies: CUDABuffer?
    private let kernel: CUDAKernel

    /// Compiles or loads the kernel.
    ///
    /// - Parameters:
    ///   - format: what the pages hold.
    ///   - tokens: new tokens of each sequence and step.
    ///   - rotary: the embedding of the key part's first elements; nil for none.
    ///   - norm: whether layers come with a norm.
    ///   - stream: in whose order the plan's memory is reused.
    /// - Throws: ``GPUAttentionError``, `CUDAError`.
    public init(
        format: GPUCacheFormat, tokens: Int, rotary: RotaryEmbedding?, norm: Bool, stream: CUDAStream
    ) throws {
        let geometry = format.geometry
        try GPUAttentionError.require((1...65535).contains(tokens), "new tokens", tokens, "between 1 and 65535")
        let rotated = rotary?.width ?? 0
        try GPUAttentionError.require(
            rotated <= geometry.key, "rotary width", rotated, "at most the key width \(geometry.key)")
        let defines = [
            "SHARED": geometry.shared, "VALUE": geometry.value, "KEY": geometry.key,
            "KEY_ONCE": format.keyIsOnce ? 1 : 0, "PAGE_SIZE": format.pageSize,
            "FP8": format.element == .f8e4m3 ? 1 : 0, "NORM": norm ? 1 : 0, "ROTATED": rotated,
            "INTERLEAVED": rotary?.style == .interleaved ? 1 : 0,
        ]
        kernel = try stream.device.modules.kernel(
            "append", in: AttentionSources.source("append.cu", defines: defines.mapValues(String.init)))
        inverseFrequencies = try rotary.map { try stream.upload($0.inverseFrequencies) }
        magnitude = Float(rotary?.magnitude ?? 1)
        hasNorm = norm
        self.format = format
        self.tokens = tokens
    }

    /// Appends to one layer of `batch` sequences.
    public func run(_ layer: Layer, batch: Int, on stream: CUDAStream) throws {
        try GPUAttentionError.require((1...65535).contains(batch), "sequences", batch, "between 1 and 65535")
        for (name, address, isNeeded, alignment) in [
            ("new rows", layer.rows, true, 4), ("new keys", layer.key, format.keyIsOnce, 2),
            ("cache", layer.cache, true, 128), ("page table", layer.pageTable, true, 4),
            ("lengths", layer.lengths, true, 4), ("weight of the norm", layer.norm?.weight ?? 0, hasNorm, 4),
        ] where isNeeded && (address == 0 || address % UInt64(alignment) != 0) {
            throw GPUAttentionError.argument(name: name, expected: "an address that is a multiple of \(alignment)")
        }
        let groups = format.geometry.groups
        let parameters = Parameters(
            rows: layer.rows, key: layer.key, weight: layer.norm?.weight ?? 0,
            inverseFrequencies: inverseFrequencies?.address ?? 0, cache: layer.cache, pageTable: layer.pageTable,
            lengths: layer.lengths, pageBytes: Int64(format.pageBytes), pageStride: Int32(layer.pageStride),
            tokens: Int32(tokens), groups: Int32(groups), epsilon: layer.norm?.epsilon ?? 0, magnitude: magnitude)
        try kernel.launch(
            grid: CUDAExtent(groups + (format.keyIsOnce ? 1 : 0), tokens, batch), block: 128, on: stream,
            .value(parameters))
        inverseFrequencies?.used(on: stream)
    }
}
