import ApusTensor

/// New tokens of attention that keeps one rotated key for all heads (GTA, MLA, GLA) on a GPU: states and key into the pages,
/// and what is to be done with the queries before attention (GTA) or before their next product (MLA, GLA).
///
/// Functions only queue work. Launches overlap the end of the kernel before them in the stream, for whose results they wait.
public final class GPUSharedAppend: Sendable {
    /// What a row of the projection begins with.
    public enum Queries: Sendable, Hashable {
        /// Query heads `[shared | key]`, whose last part is rotated.
        case heads
        /// Query latents, which are normalised.
        case latents(count: Int, width: Int)
        /// So many elements that are left alone.
        case untouched(Int)
    }

    /// What a layer has beside its products, as addresses on the GPU.
    public struct Norms: Sendable {
        /// `[group][shared]` float32 of the latents; 0 for tied states.
        public var states: UInt64
        /// `[latent][width]` float32 of the query latents, where there are some.
        public var queries: UInt64
        /// Added to the mean of the squares.
        public var epsilon: Float

        /// A layer's norms.
        public init(states: UInt64 = 0, queries: UInt64 = 0, epsilon: Float = 0) {
            self.states = states
            self.queries = queries
            self.epsilon = epsilon
        }
    }

    /// `struct SharedAppend` of `shared_append.cu`.
    private struct Parameters: BitwiseCopyable {
        var projected: UInt64, queryNorm: UInt64, norm: UInt64, cosine: UInt64, sine: UInt64, queries: UInt64
        var cache: UInt64, pageTable: UInt64, sequences: UInt64, positions: UInt64, lengths: UInt64
        var pageElements: Int64
        var pageStride: Int32, tokens: Int32, parts: Int32, groups: Int32, width: Int32
        var epsilon: Float
    }

    /// What the pages hold.
    public let format: GPUCacheFormat
    /// What a row of the projection begins with.
    public let queries: Queries
    private let device: CUDADevice
    private let kernel: CUDAKernel

    /// Compiles or loads the kernel.
    ///
    /// - Parameters:
    ///   - format: bf16 pages with a key kept once.
    ///   - queries: what a row of the projection begins with.
    ///   - rotated: elements of the key that are rotated, the first ones.
    ///   - style: which of them form pairs.
    /// - Throws: ``GPUAttentionError`` for other pages, `CUDAError` otherwise.
    public init(
        format: GPUCacheFormat, queries: Queries, rotated: Int, style: RotaryStyle, device: CUDADevice
    ) throws {
        try GPUAttentionError.require(
            format.keyIsOnce && format.element == .bf16, "groups with their own key", format.geometry.groups,
            "bf16 pages with a key kept once")
        try GPUAttentionError.require(
            rotated % 2 == 0 && rotated <= format.geometry.key, "rotary width", rotated,
            "even, at most the key width \(format.geometry.key)")
        let width = Self.queryElements(queries, format.geometry)
        try GPUAttentionError.require(width % 8 == 0, "elements of queries", width, "a multiple of 8")
        kernel = try device.modules.kernel(
            "shared_append",
            in: AttentionSources.source(
                "shared_append.cu",
                defines: Self.defines(format, queries: queries, rotated: rotated, style: style).mapValues(String.init)))
        self.format = format
        self.queries = queries
        self.device = device
    }

    package static func defines(
        _ format: GPUCacheFormat, queries: Queries, rotated: Int, style: RotaryStyle
    ) -> [String: Int] {
        let geometry = format.geometry
        let part =
            switch queries {
            case .heads: geometry.queryWidth
            case .latents(_, let width): width
            case .untouched: 0
            }
        return [
            "SHARED": geometry.shared, "VALUE": geometry.value, "KEY": geometry.key, "PAGE_SIZE": format.pageSize,
            "ROTATED": rotated, "INTERLEAVED": style == .interleaved ? 1 : 0, "NORM": queries == .heads ? 0 : 1,
            "PART": part,
        ]
    }

    private static func queryElements(_ queries: Queries, _ geometry: CacheGeometry) -> Int {
        switch queries {
        case .heads: geometry.queryHeads * geometry.queryWidth
        case .latents(let count, let width): count * width
        case .untouched(let width): width
        }
    }

    /// Elements of a row of the projection: `[queries | states of groups | key]`.
    public static func projectedWidth(_ queries: Queries, _ geometry: CacheGeometry) -> Int {
        queryElements(queries, geometry) + geometry.groups * geometry.outputWidth + geometry.key
    }

    /// Appends `tokens` rows of `projected`. Rotated heads, or normalised query latents, go to `result`
    /// `[token][head or latent]` bf16.
    public func run(
        projected: UInt64, result: UInt64, tokens: Int, at places: GPUGroupedAttention.Places, rotary: GPURotaryTable,
        norms: Norms, pages: GPUGroupedAttention.Pages, on stream: CUDAStream
    ) throws {
        guard tokens > 0 else { return }
        let geometry = format.geometry
        let parts =
            switch queries {
            case .heads: geometry.queryHeads
            case .latents(let count, _): count
            case .untouched: 0
            }
        var parameters = Parameters(
            projected: projected, queryNorm: norms.queries, norm: norms.states, cosine: rotary.cosine,
            sine: rotary.sine, queries: result, cache: pages.cache, pageTable: pages.table, sequences: 0, positions: 0,
            lengths: 0, pageElements: Int64(format.pageBytes / 2), pageStride: Int32(pages.stride),
            tokens: Int32(tokens), parts: Int32(parts), groups: Int32(geometry.groups),
            width: Int32(Self.projectedWidth(queries, geometry)), epsilon: norms.epsilon)
        switch places {
        case .lengths(let lengths): parameters.lengths = lengths
        case .tokens(let sequences, let positions):
            (parameters.sequences, parameters.positions) = (sequences, positions)
        }
        let warps = tokens * (parts + geometry.groups + 1)
        try kernel.launch(
            grid: CUDAExtent(min((warps + 3) / 4, 16 * device.multiprocessorCount)), block: 128,
            attributes: [.overlapsPredecessor], on: stream, .value(parameters))
    }
}
