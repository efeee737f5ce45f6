import ApusTensor

/// Attention of prompts on a Hopper GPU: new tokens of several sequences, already in the pages, see the tokens before them.
///
/// What a chunk of prompts asks for is planned once (``plan(starts:cached:window:on:)``) and run for each layer. Repeated runs
/// give the same bits.
public final class GPUPrefillAttention: Sendable {
    /// What the kernel is compiled with and takes. The reasons stand in `docs/kernels/gpu-training-attention.md`.
    package struct Settings: Hashable, Sendable {
        /// Macros.
        package let defines: [String: Int]
        /// Dynamic shared memory in bytes.
        package let sharedMemory: Int
        let blockTokens: Int

        /// The settings of a format. Throws ``GPUAttentionError``.
        package init(_ format: GPUCacheFormat) throws(GPUAttentionError) {
            let geometry = format.geometry
            let (width, query) = (geometry.outputWidth, geometry.queryWidth)
            try GPUAttentionError.require(format.element == .bf16, "bytes of a page", format.pageBytes, "bf16 pages")
            try GPUAttentionError.require(width <= 256, "output width", width, "at most 256 in prefill")
            try GPUAttentionError.require(
                format.pageSize == 8 || [16, 32].contains(format.pageSize) || format.pageSize % 64 == 0, "page size",
                format.pageSize, "8, 16, 32 or a multiple of 64 in prefill")
            // The producer's registers hold the pages of eight copies, and those of the next eight.
            var block = width <= 128 && query <= 192 && format.pageSize > 8 ? 128 : 64
            if format.pageSize > block || block % format.pageSize != 0, format.pageSize % block != 0 { block = 64 }
            func panels(_ width: Int) -> Int { (width + 63) / 64 }
            let rows = 2 * panels(query) * 64 * 128
            let stage = (panels(format.rowWidth) + (format.keyIsOnce ? 1 : 0)) * block * 128
            let stages = min(4, ((226 << 10) - rows) / stage)
            defines = [
                "SHARED": geometry.shared, "VALUE": geometry.value, "KEY": geometry.key,
                "KEY_ONCE": format.keyIsOnce ? 1 : 0, "PAGE_SIZE": format.pageSize, "BLOCK_N": block, "STAGES": stages,
            ]
            sharedMemory = rows + stages * stage
            blockTokens = block
        }
    }

    /// The work of a chunk, the same for all layers.
    public struct Plan: Sendable {
        /// New tokens.
        public let tokens: Int
        fileprivate let items: CUDABuffer?
        fileprivate let count: Int
        fileprivate let window: Int
    }

    /// `struct Prefill` of `prefill.cu`, which begins with `struct Work` of `attention_items.cuh`.
    private struct Parameters: BitwiseCopyable {
        var items: UInt64, counters: UInt64
        var count: Int32, heads: Int32, group: Int32, window: Int32
        var scale: Float
        var padding: Int32 = 0
        var pageTable: UInt64, output: UInt64, logSumExp: UInt64
        var pageStride: Int32
        var lastPadding: Int32 = 0
    }

    /// What the pages hold.
    public let format: GPUCacheFormat
    private let scale: Float
    private let settings: Settings
    private let kernel: CUDAKernel
    private let counters: CUDABuffer
    private let device: CUDADevice

    /// Compiles or loads the kernel.
    /// - Throws: ``GPUAttentionError`` for what it does not serve, `CUDAError` otherwise.
    public init(format: GPUCacheFormat, scale: Float, stream: CUDAStream) throws {
        device = stream.device
        guard device.capability == (9, 0) else {
            throw GPUAttentionError.capability(found: "\(device.capability.major).\(device.capability.minor)")
        }
        settings = try Settings(format)
        kernel = try device.modules.kernel(
            "prefill", in: AttentionSources.source("prefill.cu", defines: settings.defines.mapValues(String.init)))
        counters = try CUDABuffer(byteCount: 8, stream: stream)
        try stream.fill(counters, with: 0)
        self.format = format
        self.scale = scale
    }

    /// Cuts the work of a chunk. `starts`: the first row of each sequence's new tokens, and their number at the end; `cached`:
    /// tokens that each has before them; `window`: tokens that one sees, itself included, nil for all.
    public func plan(starts: [Int], cached: [Int], window: Int? = nil, on stream: CUDAStream) throws -> Plan {
        let geometry = format.geometry
        let bytes = 2 * (geometry.groups * format.rowWidth + (format.keyIsOnce ? geometry.key : 0))
        let items = TrainingAttentionItems(
            SequenceAttention(starts: starts, scale: scale, window: window), heads: geometry.queryHeads, of: .queries,
            bytesPerRow: bytes / geometry.queryHeads, cached: cached
        ).items
        return Plan(
            tokens: starts.last ?? 0, items: items.isEmpty ? nil : try stream.upload(items), count: items.count,
            window: min(window ?? 1 << 30, 1 << 30))
    }

    /// Attends in one layer. `layer`: as for ``GPUDecodeAttention``, with rows of the plan's tokens for query, output and
    /// log-sum-exp.
    public func run(_ plan: Plan, _ layer: GPUDecodeAttention.Layer, on stream: CUDAStream) throws {
        guard let items = plan.items else { return }
        let geometry = format.geometry
        let (row, page, width) = (format.rowWidth, format.pageSize, geometry.queryWidth)
        let box = min(page, settings.blockTokens)
        let query = try CUDATensorMap(
            .bf16, address: layer.query, extents: [width, geometry.queryHeads, plan.tokens],
            strides: [width * 2, geometry.queryHeads * width * 2], box: [64, 1, 64])
        let rows = try CUDATensorMap(
            .bf16, address: layer.cache, extents: [row, page, 1, geometry.groups, layer.pageCount],
            strides: [row * 2, row * 2, page * row * 2, format.pageBytes], box: [64, box, 1, 1, 1])
        let key =
            format.keyIsOnce
            ? try CUDATensorMap(
                .bf16, address: layer.cache + UInt64(format.rowsBytes), extents: [geometry.key, page, layer.pageCount],
                strides: [geometry.key * 2, format.pageBytes], box: [64, box, 1]) : rows
        let parameters = Parameters(
            items: items.address, counters: counters.address, count: Int32(plan.count),
            heads: Int32(geometry.queryHeads), group: Int32(geometry.headsPerGroup), window: Int32(plan.window),
            scale: scale, pageTable: layer.pageTable, output: layer.output, logSumExp: layer.logSumExp,
            pageStride: Int32(layer.pageStride))
        try kernel.launch(
            grid: CUDAExtent(min(device.multiprocessorCount, plan.count)),
            block: CUDAExtent(TrainingAttentionSettings.threads), sharedMemory: settings.sharedMemory, on: stream,
            .value(query), .value(rows), .value(key), .value(parameters))
        counters.used(on: stream)
    }
}
