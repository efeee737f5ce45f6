import ApusTensor

/// The decode kernel of a format, and what it is compiled with: the tile of rows, the KV block, the stages in shared
/// memory. The reasons stand in `docs/kernels/gpu-decode.md`.
public struct GPUDecodeSettings: Sendable, Hashable {
    /// The kernel's file; the kernel has its name.
    public let file: String
    /// Macros.
    public let defines: [String: String]
    /// Dynamic shared memory in bytes.
    public let sharedMemory: Int
    /// Blocks on a multiprocessor.
    public let residentBlocks: Int
    /// Warpgroups that compute; one more loads.
    public let warpgroups: Int
    /// Rows (query tokens x heads of a group) of a tile.
    public let tileRows: Int
    /// Tokens of a KV block.
    public let blockTokens: Int
    /// Row tiles of a group.
    public let rowTiles: Int
    /// Shared memory in bytes that the kernel itself declares, at most.
    public let staticMemory: Int
    /// Columns, tokens and panels of columns that one copy of rows brings, and how they lie in shared memory.
    let rowBox: [Int]
    let rowSwizzle: CUDATensorMap.Swizzle
    /// Panels of 64 columns that one copy of queries brings; 0 where the copy engine does not bring them.
    let queryPanels: Int

    /// Shared memory of a multiprocessor, and what the driver takes of it for a block.
    private static let capacity = 228 << 10
    private static let reserved = 1024
    /// Loads on their way beyond this only lengthen the memory's queues.
    private static let inFlight = 120 << 10

    /// The settings for steps of `queryTokens` (1 to 16) new tokens a sequence. Throws ``GPUAttentionError``.
    public init(format: GPUCacheFormat, queryTokens: Int) throws(GPUAttentionError) {
        try GPUAttentionError.require((1...16).contains(queryTokens), "query tokens", queryTokens, "between 1 and 16")
        let rows = format.geometry.headsPerGroup * queryTokens
        if format.element == .bf16 && Self.gathersFewRows(format, rows: rows) {
            self = .few(format: format, rows: rows)
        } else if format.element == .bf16 {
            self = try .bf16(format: format, rows: rows)
        } else if format.geometry.outputWidth == 256 && rows > 32 {
            self = .tallFP8(format: format, rows: rows)
        } else {
            self = .fp8(format: format, rows: rows)
        }
    }

    private init(
        file: String, defines: [String: Int], format: GPUCacheFormat, rows: Int, tileRows: Int, warpgroups: Int = 2,
        residentBlocks: Int = 1, blockTokens: Int = 64, sharedMemory: Int, staticMemory: Int, rowBox: [Int],
        rowSwizzle: CUDATensorMap.Swizzle = .b128, queryPanels: Int = 0
    ) {
        let geometry = format.geometry
        let shape = [
            "SHARED": geometry.shared, "VALUE": geometry.value, "KEY": geometry.key,
            "KEY_ONCE": format.keyIsOnce ? 1 : 0, "PAGE_SIZE": format.pageSize,
        ]
        self.file = file
        self.defines = shape.merging(defines) { $1 }.mapValues(String.init)
        self.sharedMemory = max(
            sharedMemory,
            Self.mergeMemory(tileRows: tileRows, width: geometry.outputWidth, residentBlocks: residentBlocks))
        self.staticMemory = staticMemory
        self.residentBlocks = residentBlocks
        self.warpgroups = warpgroups
        self.tileRows = tileRows
        self.blockTokens = blockTokens
        self.rowTiles = (rows + tileRows - 1) / tileRows
        self.rowBox = rowBox
        self.rowSwizzle = rowSwizzle
        self.queryPanels = queryPanels
    }

    private static func bf16(format: GPUCacheFormat, rows: Int) throws(GPUAttentionError) -> GPUDecodeSettings {
        let geometry = format.geometry
        let width = geometry.outputWidth
        // Two warpgroups share out the columns of 64 rows.
        let isWide = width > 256
        let warpgroups = isWide || rows > 64 ? 2 : 1
        let resident = width <= 128 && warpgroups == 1 ? 2 : 1
        let staticMemory = 2048
        let limit = capacity / resident - reserved - staticMemory
        let rowPanels = panels(format.rowWidth)
        let stagePanels = rowPanels + (format.keyIsOnce ? 1 : 0)
        // The last query columns stay in registers where these suffice.
        let queryPanels = (geometry.queryWidth - 1) / 64
        let query = (isWide ? 1 : warpgroups) * queryPanels * 64 * 128 + (isWide ? 2 * 64 * 128 : 0)
        let block = !isWide && (limit - query) / (stagePanels * 64 * 128) < 3 ? 32 : 64
        let stage = stagePanels * block * 128
        let stages = min(
            isWide ? 2 : !format.isTiled || warpgroups == 2 ? 6 : max(3, inFlight / resident / stage),
            (limit - query) / stage)
        try GPUAttentionError.require(
            stages >= (isWide ? 2 : 3), "row width", format.rowWidth, "one of which shared memory holds blocks")
        var defines = ["BLOCK_N": block, "WARPGROUPS": warpgroups, "STAGES": stages]
        if !format.isTiled { defines["GATHER"] = 1 }
        let tiles = queryTiles(geometry)
        defines["QUERY_TILES"] = tiles ? 1 : 0
        let box = min(format.pageSize, block)
        return GPUDecodeSettings(
            file: isWide ? "decode_wide.cu" : "decode.cu", defines: defines, format: format, rows: rows,
            tileRows: isWide ? 64 : 64 * warpgroups, warpgroups: warpgroups, residentBlocks: resident,
            blockTokens: block, sharedMemory: query + stages * stage, staticMemory: staticMemory,
            rowBox: [64, box, box < block || format.rowWidth % 64 != 0 ? 1 : rowPanels / (isWide ? 2 : 1)],
            queryPanels: tiles ? queryPanels : 0)
    }

    /// Latents too wide for one warpgroup's 64 rows, gathered row by row, for few query rows: transposed products leave
    /// room for gathers on their way.
    private static func gathersFewRows(_ format: GPUCacheFormat, rows: Int) -> Bool {
        let geometry = format.geometry
        return !format.isTiled && format.keyIsOnce && geometry.value == 0 && geometry.outputWidth > 256
            && geometry.outputWidth % 64 == 0 && rows <= 16
    }

    private static func few(format: GPUCacheFormat, rows: Int) -> GPUDecodeSettings {
        let geometry = format.geometry
        let (tile, block, warpgroups) = (16, 32, 2)
        let staticMemory = 2048
        let query = panels(geometry.queryWidth) * tile * 128
        let weights = warpgroups * block * 128
        let stage = (panels(geometry.outputWidth) + 1) * block * 128
        let stages = (capacity - reserved - staticMemory - query - weights) / stage
        return GPUDecodeSettings(
            file: "decode_few.cu",
            defines: [
                "GATHER": 1, "ROWS": tile, "BLOCK_N": block, "STAGES": stages, "WARPGROUPS": warpgroups,
                "QUERY_TILES": 0,
            ], format: format, rows: rows, tileRows: tile, warpgroups: warpgroups, blockTokens: block,
            sharedMemory: query + weights + stages * stage, staticMemory: staticMemory,
            rowBox: [64, min(format.pageSize, block), 1])
    }

    /// Few rows, or outputs that are not 256 wide: the cache is an operand from registers.
    private static func fp8(format: GPUCacheFormat, rows: Int) -> GPUDecodeSettings {
        let geometry = format.geometry
        let width = geometry.outputWidth
        let most = width <= 256 ? 64 : 32
        let tile = [16, 32].first { $0 >= min(rows, most) } ?? 64
        let staticMemory = 5120
        let query = (panels(geometry.shared) + 1) * tile * 128
        // Few rows leave registers for a third warpgroup, and chains of conversions and products ask for one.
        let warpgroups = tile == 16 ? 3 : 2
        let weights = warpgroups * (tile == 64 ? 2 : 1) * 64 * 128
        let stage = panels(width) * 64 * 64 + 64 * 128 + 64 * 4
        let stages = min(8, (capacity - reserved - staticMemory - query - weights) / stage)
        let box = min(format.pageSize, 64)
        return GPUDecodeSettings(
            file: "decode_fp8.cu", defines: ["ROWS": tile, "STAGES": stages, "WARPGROUPS": warpgroups], format: format,
            rows: rows, tileRows: tile, warpgroups: warpgroups, sharedMemory: query + weights + stages * stage,
            staticMemory: staticMemory,
            rowBox: [64, box, box < 64 || width % 64 != 0 ? 1 : panels(width)], rowSwizzle: .b64)
    }

    /// More than 32 rows of outputs 256 wide: rows become blocks of bf16 in shared memory.
    private static func tallFP8(format: GPUCacheFormat, rows: Int) -> GPUDecodeSettings {
        let geometry = format.geometry
        let width = geometry.outputWidth
        let staticMemory = 1024
        let queryPanels = geometry.queryWidth % 64 == 0 ? geometry.queryWidth / 64 : (geometry.queryWidth - 1) / 64
        let (stages, raws) = (3, 3)
        let converted = queryPanels * 64 * 128 + stages * 64 * width * 2
        // Keys with scales.
        let side = 64 * 128 + 64 * 4
        let sides = min(raws + stages, (capacity - reserved - staticMemory - converted - raws * 64 * width) / side)
        let tiles = queryTiles(geometry)
        return GPUDecodeSettings(
            file: "decode_fp8_tall.cu",
            defines: [
                "BLOCK_N": 64, "WARPGROUPS": 2, "STAGES": stages, "FP8": 1, "RAW_STAGES": raws, "SIDE_STAGES": sides,
                "QUERY_TILES": tiles ? 1 : 0,
            ], format: format, rows: rows, tileRows: 64,
            sharedMemory: converted + raws * 64 * width + sides * side, staticMemory: staticMemory,
            rowBox: [width, min(format.pageSize, 64), 1], rowSwizzle: .none, queryPanels: tiles ? queryPanels : 0)
    }

    /// Whether the copy engine can bring the queries of 64 rows.
    private static func queryTiles(_ geometry: CacheGeometry) -> Bool {
        64 % geometry.headsPerGroup == 0 || geometry.headsPerGroup % 64 == 0
    }

    /// `MERGE_BYTES` of `partials.cuh`: a merge's strips of 256 bytes, with 16 bytes of their rows' log-sum-exps.
    private static func mergeMemory(tileRows: Int, width: Int, residentBlocks: Int) -> Int {
        let strips = tileRows / 4 * ((width + 31) / 32)
        return max(2 * strips, 132 * residentBlocks) * (256 + 16) + tileRows * 8
    }

    /// The name of the kernel in its file.
    public var kernel: String { String(file.dropLast(3)) }
    /// Threads of a block.
    public var threads: Int { 128 * (warpgroups + 1) }

    private static func panels(_ width: Int) -> Int { (width + 63) / 64 }
}
