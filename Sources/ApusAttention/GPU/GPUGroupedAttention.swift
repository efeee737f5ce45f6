import ApusSynchronization
import ApusTensor

/// Grouped attention (MHA, GQA, MQA) of new tokens on a GPU: norm and rotation of queries and keys, keys and values into the
/// pages; for steps over short contexts the attention too, in the same launch.
///
/// Functions only queue work. Launches overlap the end of the kernel before them in the stream, for whose results they wait.
public final class GPUGroupedAttention: Sendable {
    /// What a layer has beside its products, as addresses on the GPU.
    public struct Heads: Sendable {
        /// Cosine and sine of all positions.
        public var rotary: GPURotaryTable
        /// `[head width]` float32 weights of the norms of queries and keys; 0 where there are none.
        public var queryNorm: UInt64, keyNorm: UInt64
        /// `[query heads | key heads | value heads][head width]` float32 added to the projections; 0 for none.
        public var bias: UInt64
        /// Of the norms.
        public var epsilon: Float

        /// What a layer has.
        public init(
            rotary: GPURotaryTable, queryNorm: UInt64 = 0, keyNorm: UInt64 = 0, bias: UInt64 = 0, epsilon: Float = 0
        ) {
            self.rotary = rotary
            self.queryNorm = queryNorm
            self.keyNorm = keyNorm
            self.bias = bias
            self.epsilon = epsilon
        }
    }

    /// A layer's pages and who holds them, as addresses on the GPU.
    public struct Pages: Sendable {
        /// The layer's first page; a multiple of 128.
        public var cache: UInt64
        /// `[sequence][stride]` int32.
        public var table: UInt64
        /// Entries of the table a sequence.
        public var stride: Int

        /// A layer's pages.
        public init(cache: UInt64, table: UInt64, stride: Int) {
            self.cache = cache
            self.table = table
            self.stride = stride
        }
    }

    /// Where new tokens stand, as addresses of int32.
    public enum Places: Sendable {
        /// One new token for each sequence, the last of `[sequence]` lengths; length 0 is no sequence.
        case lengths(UInt64)
        /// `[token]`: the sequence and the position of each.
        case tokens(sequences: UInt64, positions: UInt64)
    }

    /// `struct GroupedAppend` of `grouped_append.cu`.
    private struct AppendParameters: BitwiseCopyable {
        var qkv: UInt64, bias: UInt64, queryNorm: UInt64, keyNorm: UInt64, cosine: UInt64, sine: UInt64, query: UInt64
        var cache: UInt64, pageTable: UInt64, sequences: UInt64, positions: UInt64, lengths: UInt64
        var pageElements: Int64
        var pageStride: Int32, tokens: Int32, queryHeads: Int32, groups: Int32
        var epsilon: Float
        var padding: Int32 = 0
    }

    /// `struct GroupedStep` of `grouped_step.cu`.
    private struct StepParameters: BitwiseCopyable {
        var qkv: UInt64, queryNorm: UInt64, keyNorm: UInt64, cosine: UInt64, sine: UInt64, cache: UInt64
        var pageTable: UInt64, lengths: UInt64, output: UInt64
        var pageElements: Int64
        var pageStride: Int32, groups: Int32, window: Int32
        var epsilon: Float, scaleLog2: Float
        var padding: Int32 = 0
    }

    /// What the pages hold.
    public let format: GPUCacheFormat
    /// Factor on the scores.
    public let scale: Float
    private let rotated: Int
    private let style: RotaryStyle
    private let hasNorm: Bool
    private let device: CUDADevice
    private let appendKernel: CUDAKernel
    private let stepKernels = Locked<[StepSettings: CUDAKernel]>([:])

    /// Compiles or loads the kernels.
    ///
    /// - Parameters:
    ///   - format: pages of a geometry in which each group has a key and a value of the same width.
    ///   - rotated: elements of a head that are rotated, the first ones.
    ///   - style: which of them form pairs.
    ///   - norm: whether queries and keys are normalised.
    /// - Throws: ``GPUAttentionError`` for other geometries, `CUDAError` otherwise.
    public init(
        format: GPUCacheFormat, scale: Float, rotated: Int, style: RotaryStyle, norm: Bool, device: CUDADevice
    ) throws {
        let geometry = format.geometry
        try GPUAttentionError.require(
            geometry.shared == 0 && !format.keyIsOnce && format.element == .bf16, "shared width", geometry.shared,
            "grouped attention over bf16 pages")
        try GPUAttentionError.require(
            geometry.key == geometry.value, "key width", geometry.key, "the value width \(geometry.value)")
        try GPUAttentionError.require(
            rotated % 2 == 0 && rotated <= geometry.key, "rotary width", rotated,
            "even, at most the key width \(geometry.key)")
        self.format = format
        self.scale = scale
        self.rotated = rotated
        self.style = style
        hasNorm = norm
        self.device = device
        appendKernel = try device.modules.kernel(
            "grouped_append",
            in: AttentionSources.source(
                "grouped_append.cu",
                defines: Self.defines(format, rotated: rotated, style: style, norm: norm).mapValues(String.init)))
    }

    package static func defines(
        _ format: GPUCacheFormat, rotated: Int, style: RotaryStyle, norm: Bool
    ) -> [String: Int] {
        [
            "HEAD": format.geometry.key, "PAGE_SIZE": format.pageSize, "ROTATED": rotated,
            "INTERLEAVED": style == .interleaved ? 1 : 0, "NORM": norm ? 1 : 0,
        ]
    }

    /// Elements of a row of queries, keys and values.
    public var projectedWidth: Int { (format.geometry.queryHeads + 2 * format.geometry.groups) * format.geometry.key }

    /// Normalised and rotated queries to `query` `[token][query head][head width]`, keys and values into the pages, of
    /// `tokens` rows of `qkv`.
    public func append(
        qkv: UInt64, query: UInt64, tokens: Int, at places: Places, heads: Heads, pages: Pages, on stream: CUDAStream
    ) throws {
        guard tokens > 0 else { return }
        let geometry = format.geometry
        var parameters = AppendParameters(
            qkv: qkv, bias: heads.bias, queryNorm: heads.queryNorm, keyNorm: heads.keyNorm, cosine: heads.rotary.cosine,
            sine: heads.rotary.sine, query: query, cache: pages.cache, pageTable: pages.table, sequences: 0,
            positions: 0, lengths: 0, pageElements: Int64(format.pageBytes / 2), pageStride: Int32(pages.stride),
            tokens: Int32(tokens), queryHeads: Int32(geometry.queryHeads), groups: Int32(geometry.groups),
            epsilon: heads.epsilon)
        switch places {
        case .lengths(let lengths): parameters.lengths = lengths
        case .tokens(let sequences, let positions):
            (parameters.sequences, parameters.positions) = (sequences, positions)
        }
        let warps = tokens * (geometry.queryHeads + geometry.groups)
        try appendKernel.launch(
            grid: CUDAExtent(min((warps + 7) / 8, 16 * device.multiprocessorCount)), block: 256,
            attributes: [.overlapsPredecessor], on: stream, .value(parameters))
    }

    /// Whether ``step(qkv:output:batch:lengths:window:heads:pages:on:)`` serves the geometry: heads of up to 256 elements, at
    /// most 8 to a group.
    public static func hasStep(_ geometry: CacheGeometry) -> Bool {
        geometry.key % 8 == 0 && geometry.key <= 256 && geometry.headsPerGroup <= 8
    }

    /// Tokens up to which a step in one launch is faster than ``append(qkv:query:tokens:at:heads:pages:on:)`` and
    /// ``GPUDecodeAttention``: a block reads a whole context, so few blocks should not have long ones.
    public func stepLimit(batch: Int) -> Int {
        batch * format.geometry.groups >= 2 * device.multiprocessorCount ? 8192 : 1024
    }

    /// How a step's kernel is compiled for a grid.
    package struct StepSettings: Hashable, Sendable {
        /// Macros.
        package let defines: [String: Int]
        /// Warps of a block.
        package let warps: Int

        /// The settings for so many blocks: wide ones with much on its way while all fit the GPU at a time, many small ones
        /// beyond.
        package init(
            _ format: GPUCacheFormat, rotated: Int, style: RotaryStyle, norm: Bool, blocks: Int, multiprocessors: Int
        ) {
            let width = format.geometry.key
            let ahead = max(1, min(3, 128 / width))
            let settings: (warps: Int, ahead: Int) =
                if blocks <= (ahead > 1 ? 2 : 1) * multiprocessors {
                    (8, ahead)
                } else {
                    (width <= 64 && blocks <= 3 * multiprocessors ? 8 : 4, 1)
                }
            warps = settings.warps
            defines = GPUGroupedAttention.defines(format, rotated: rotated, style: style, norm: norm).merging([
                "HEADS": format.geometry.headsPerGroup, "WARPS": settings.warps, "AHEAD": settings.ahead,
            ]) { $1 }
        }
    }

    private func stepKernel(_ settings: StepSettings) throws -> CUDAKernel {
        if let known = stepKernels.withLock({ $0[settings] }) { return known }
        let source = AttentionSources.source("grouped_step.cu", defines: settings.defines.mapValues(String.init))
        let kernel = try device.modules.kernel("grouped_step", in: source)
        stepKernels.withLock { $0[settings] = kernel }
        return kernel
    }

    /// Appends one token to each of `batch` sequences and attends, in one launch: `output`
    /// `[sequence][query head][head width]` bf16. `lengths`: the tokens of each sequence with the new one; `window`: how many
    /// of them are seen, nil for all. Biases have been added. Precondition: pages of a multiple of 16 tokens.
    public func step(
        qkv: UInt64, output: UInt64, batch: Int, lengths: UInt64, window: Int?, heads: Heads, pages: Pages,
        on stream: CUDAStream
    ) throws {
        let geometry = format.geometry
        precondition(
            Self.hasStep(geometry) && format.pageSize % 16 == 0,
            "a step in one launch of \(geometry), \(format.pageSize) tokens a page")
        let settings = StepSettings(
            format, rotated: rotated, style: style, norm: hasNorm, blocks: batch * geometry.groups,
            multiprocessors: device.multiprocessorCount)
        let parameters = StepParameters(
            qkv: qkv, queryNorm: heads.queryNorm, keyNorm: heads.keyNorm, cosine: heads.rotary.cosine,
            sine: heads.rotary.sine, cache: pages.cache, pageTable: pages.table, lengths: lengths, output: output,
            pageElements: Int64(format.pageBytes / 2), pageStride: Int32(pages.stride), groups: Int32(geometry.groups),
            window: Int32(min(window ?? 1 << 30, 1 << 30)), epsilon: heads.epsilon, scaleLog2: scale * 1.442_695_04)
        try stepKernel(settings).launch(
            grid: CUDAExtent(geometry.groups, batch), block: CUDAExtent(32 * settings.warps),
            attributes: [.overlapsPredecessor], on: stream, .value(parameters))
    }
}
