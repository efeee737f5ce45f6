import ApusSynchronization
import ApusTensor

/// Decode attention on a Hopper GPU for all layers of one format.
///
/// A step is planned once and run for each layer: ``schedule(lengths:batch:on:)`` cuts the batch into pieces on the GPU,
/// ``run(_:overlapping:on:)`` reads them. Both only queue work, and the grid does not depend on the lengths, so a step
/// that was captured as a CUDA graph stays valid while lengths, page tables and contents change in place.
///
/// Query token t of a sequence of n tokens sees the tokens before n - queryTokens + t + 1. Repeated runs give the same
/// bits. The memory it keeps is at most 18 MB: partial results of sequences that are cut.
public final class GPUDecodeAttention: Sendable {
    /// Addresses of one layer, on the GPU.
    public struct Layer: Sendable {
        /// `[sequence][query token][query head][shared | key]` bf16; a multiple of 16.
        public var query: UInt64
        /// The first page; a multiple of 128.
        public var cache: UInt64
        /// Pages that begin there.
        public var pageCount: Int
        /// `[sequence][pageStride]` int32: page numbers.
        public var pageTable: UInt64
        /// Entries of the table a sequence.
        public var pageStride: Int
        /// `[sequence][query token][query head][shared | value]` bf16; a multiple of 16.
        public var output: UInt64
        /// `[sequence][query token][query head]` float32: natural logarithms of the sums of exponentials.
        public var logSumExp: UInt64

        /// Addresses of one layer.
        public init(
            query: UInt64, cache: UInt64, pageCount: Int, pageTable: UInt64, pageStride: Int, output: UInt64,
            logSumExp: UInt64
        ) {
            self.query = query
            self.cache = cache
            self.pageCount = pageCount
            self.pageTable = pageTable
            self.pageStride = pageStride
            self.output = output
            self.logSumExp = logSumExp
        }
    }

    /// `struct Decode` of `decode_loads.cuh`.
    private struct Parameters: BitwiseCopyable {
        var query: UInt64, cache: UInt64, pageTable: UInt64, pieces: UInt64, splits: UInt64, arrivals: UInt64
        var output: UInt64, logSumExp: UInt64, partial: UInt64, partialLogSumExp: UInt64
        var pageElements: Int64
        var pageStride: Int32, queryTokens: Int32, queryHeads: Int32, headsPerGroup: Int32
        var groups: Int32, lanes: Int32, rowTiles: Int32
        var scaleLog2: Float
    }

    private struct MapKey: Hashable {
        let address: UInt64
        let count: Int
    }

    /// What the pages hold.
    public let format: GPUCacheFormat
    /// New tokens of each sequence and step.
    public let queryTokens: Int
    /// The most sequences of a step.
    public let maximumBatch: Int
    /// The kernel and its settings.
    public let settings: GPUDecodeSettings
    /// The GPU.
    public let device: CUDADevice

    private let scale: Float
    private let lanes: Int
    private let outers: Int
    private let workers: Int
    private let scheduler: CUDAKernel
    private let decoder: CUDAKernel
    private let pieces: CUDABuffer, splits: CUDABuffer, arrivals: CUDABuffer, splitCount: CUDABuffer
    private let partial: CUDABuffer, partialLogSumExp: CUDABuffer
    // The batch of the last schedule, and the maps of the addresses seen so far.
    private let batch = Locked<Int?>(nil)
    private let cacheMaps = Locked<[MapKey: (rows: CUDATensorMap, key: CUDATensorMap)]>([:])
    private let queryMaps = Locked<[MapKey: CUDATensorMap]>([:])

    /// A percentage by which a worker's share may exceed the mean where that spares a cut, and a piece's fixed cost in KV
    /// blocks: measured.
    private static let slack: Int32 = 5
    private static let pieceCost: Int32 = 2
    /// Bytes of `Piece` and of `SplitItem`.
    private static let pieceBytes = 32
    private static let splitBytes = 16

    /// Compiles or loads the kernels and takes the memory of a plan.
    ///
    /// - Parameters:
    ///   - format: what the pages hold.
    ///   - queryTokens: new tokens of each sequence and step, 1 to 16.
    ///   - scale: factor on the scores (``AttentionParameters/scale``).
    ///   - maximumBatch: the most sequences of a step.
    ///   - stream: in whose order the plan's memory is reused.
    /// - Throws: ``GPUAttentionError`` for what the kernels do not serve, `CUDAError` otherwise.
    public init(
        format: GPUCacheFormat, queryTokens: Int, scale: Float, maximumBatch: Int, stream: CUDAStream
    ) throws {
        let device = stream.device
        guard device.capability == (9, 0) else {
            throw GPUAttentionError.capability(found: "\(device.capability.major).\(device.capability.minor)")
        }
        try GPUAttentionError.require(
            (1...1 << 20).contains(maximumBatch), "sequences", maximumBatch, "between 1 and \(1 << 20)")
        settings = try GPUDecodeSettings(format: format, queryTokens: queryTokens)
        let tiles = format.geometry.groups * settings.rowTiles
        let lanes = (1...16).last { tiles % $0 == 0 } ?? 1
        self.lanes = lanes
        outers = tiles / lanes
        workers = device.multiprocessorCount * settings.residentBlocks / lanes
        scheduler = try device.modules.kernel("decode_schedule", in: AttentionSources.source("schedule.cu"))
        decoder = try device.modules.kernel(
            settings.kernel, in: AttentionSources.source(settings.file, defines: settings.defines))
        func memory(_ byteCount: Int) throws -> CUDABuffer { try CUDABuffer(byteCount: byteCount, stream: stream) }
        pieces = try memory((3 * workers + maximumBatch * outers) * Self.pieceBytes)
        splits = try memory(workers * Self.splitBytes)
        arrivals = try memory(2 * workers * lanes * 4)
        splitCount = try memory(4)
        let partialRows = 2 * workers * lanes * settings.tileRows
        partial = try memory(partialRows * ((format.geometry.outputWidth + 31) / 32 * 32) * 2)
        partialLogSumExp = try memory(partialRows * 4)
        self.format = format
        self.queryTokens = queryTokens
        self.maximumBatch = maximumBatch
        self.device = device
        self.scale = scale
    }

    /// Plans a step. `lengths`: the address of `batch` int32 on the GPU, the tokens of each sequence with the step's own.
    public func schedule(lengths: UInt64, batch: Int, on stream: CUDAStream) throws {
        guard (1...maximumBatch).contains(batch) else {
            throw GPUAttentionError.batch(found: batch, limit: maximumBatch)
        }
        try Self.require(lengths, alignedTo: 4, "lengths")
        try scheduler.launch(
            grid: 1, block: 256, on: stream, .value(lengths), .value(Int32(batch)), .value(Int32(outers)),
            .value(Int32(workers)), .value(Int32(settings.blockTokens)), .value(Self.pieceCost), .value(Self.slack),
            .buffer(pieces), .buffer(splits), .buffer(arrivals), .value(Int32(lanes)), .buffer(splitCount))
        used(on: stream)
        self.batch.withLock { $0 = batch }
    }

    /// Attends in one layer of the planned step. `overlapping`: its start overlaps the end of the kernel before it in the
    /// stream, for whose results it waits.
    public func run(_ layer: Layer, overlapping: Bool = false, on stream: CUDAStream) throws {
        guard let batch = batch.withLock({ $0 }) else { throw GPUAttentionError.notScheduled }
        try Self.require(layer.query, alignedTo: 16, "queries")
        try Self.require(layer.cache, alignedTo: 128, "cache")
        try Self.require(layer.pageTable, alignedTo: 4, "page table")
        try Self.require(layer.output, alignedTo: 16, "output")
        try Self.require(layer.logSumExp, alignedTo: 4, "log-sum-exp")
        try GPUAttentionError.require(layer.pageCount >= 1, "pages", layer.pageCount, "at least 1")
        let geometry = format.geometry
        let maps = try cacheMaps(of: layer)
        let parameters = Parameters(
            query: layer.query, cache: layer.cache, pageTable: layer.pageTable, pieces: pieces.address,
            splits: splits.address, arrivals: arrivals.address, output: layer.output, logSumExp: layer.logSumExp,
            partial: partial.address, partialLogSumExp: partialLogSumExp.address,
            pageElements: Int64(format.pageBytes / 2), pageStride: Int32(layer.pageStride),
            queryTokens: Int32(queryTokens), queryHeads: Int32(geometry.queryHeads),
            headsPerGroup: Int32(geometry.headsPerGroup), groups: Int32(geometry.groups), lanes: Int32(lanes),
            rowTiles: Int32(settings.rowTiles), scaleLog2: scale * 1.442_695_04)
        try decoder.launch(
            grid: CUDAExtent(workers * lanes), block: CUDAExtent(settings.threads), sharedMemory: settings.sharedMemory,
            attributes: overlapping ? [.overlapsPredecessor] : [], on: stream, .value(maps.rows), .value(maps.key),
            .value(try queryMap(of: layer, batch: batch)), .value(parameters))
        used(on: stream)
    }

    private func used(on stream: CUDAStream) {
        for buffer in [pieces, splits, arrivals, splitCount, partial, partialLogSumExp] { buffer.used(on: stream) }
    }

    private static func require(_ address: UInt64, alignedTo alignment: UInt64, _ name: String) throws {
        guard address != 0, address % alignment == 0 else {
            throw GPUAttentionError.argument(name: name, expected: "an address that is a multiple of \(alignment)")
        }
    }

    private func cacheMaps(of layer: Layer) throws -> (rows: CUDATensorMap, key: CUDATensorMap) {
        let key = MapKey(address: layer.cache, count: layer.pageCount)
        if let maps = cacheMaps.withLock({ $0[key] }) { return maps }
        let maps = try makeCacheMaps(key)
        cacheMaps.withLock { $0[key] = maps }
        return maps
    }

    private func makeCacheMaps(_ cache: MapKey) throws -> (rows: CUDATensorMap, key: CUDATensorMap) {
        let nothing = try CUDATensorMap(.bf16, address: cache.address, extents: [64, 1], strides: [128], box: [64, 1])
        guard format.isTiled else { return (nothing, nothing) }
        let (width, bytes) = (format.rowWidth, format.element == .bf16 ? 2 : 1)
        let (page, pageBytes, groups) = (format.pageSize, format.pageBytes, format.geometry.groups)
        // Columns come in runs as wide as a copy's box; a last one that is not full allows one run at a time.
        let box = settings.rowBox
        let run = width % box[0] == 0 ? box[0] : width
        let rows = try CUDATensorMap(
            format.element == .bf16 ? .bf16 : .u8, address: cache.address,
            extents: [run, page, width / run, groups, cache.count],
            strides: [width * bytes, run == width ? 128 : run * bytes, page * width * bytes, pageBytes],
            box: box + [1, 1], swizzle: settings.rowSwizzle)
        guard format.keyIsOnce else { return (rows, nothing) }
        let keyWidth = format.geometry.key
        let keys = try CUDATensorMap(
            .bf16, address: cache.address + UInt64(format.rowsBytes), extents: [keyWidth, page, cache.count],
            strides: [keyWidth * 2, pageBytes], box: [64, settings.rowBox[1], 1])
        return (rows, keys)
    }

    private func queryMap(of layer: Layer, batch: Int) throws -> CUDATensorMap {
        let key = MapKey(address: layer.query, count: batch)
        if let map = queryMaps.withLock({ $0[key] }) { return map }
        let geometry = format.geometry
        let width = geometry.queryWidth
        let heads = geometry.headsPerGroup
        let map: CUDATensorMap
        if settings.queryPanels > 0 {
            let box = min(64, heads)
            map = try CUDATensorMap(
                .bf16, address: layer.query,
                extents: [64, heads, batch * queryTokens, geometry.groups, width / 64],
                strides: [width * 2, geometry.queryHeads * width * 2, heads * width * 2, 128],
                box: [64, box, 64 / box, 1, settings.queryPanels])
        } else {
            map = try CUDATensorMap(.bf16, address: layer.query, extents: [64, 1], strides: [128], box: [64, 1])
        }
        queryMaps.withLock { $0[key] = map }
        return map
    }
}
