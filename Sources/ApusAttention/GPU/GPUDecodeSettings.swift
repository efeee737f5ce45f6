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
    /// Panels of 64 columns that one copy of rows brings, and that one copy of queries brings.
    let rowPanels: Int, queryPanels: Int
    /// Whether the copy engine brings the queries.
    let queryTiles: Bool

    /// Shared memory of a multiprocessor, and what the kernels and the driver take of it for themselves.
    private static let capacity = 228 << 10
    private static let reserved = 1024 + 2048
    /// Loads on their way beyond this only lengthen the memory's queues.
    private static let inFlight = 120 << 10

    /// The settings for steps of `queryTokens` (1 to 16) new tokens a sequence. Throws ``GPUAttentionError``.
    public init(format: GPUCacheFormat, queryTokens: Int) throws(GPUAttentionError) {
        try GPUAttentionError.require((1...16).contains(queryTokens), "query tokens", queryTokens, "between 1 and 16")
        let geometry = format.geometry
        let rows = geometry.headsPerGroup * queryTokens
        let width = geometry.outputWidth
        let isFP8 = format.element == .f8e4m3
        // Two warpgroups share out the columns of 64 rows.
        let isWide = width > 256
        let warpgroups = isWide || rows > 64 ? 2 : 1
        let resident = width <= 128 && warpgroups == 1 ? 2 : 1
        let limit = Self.capacity / resident - Self.reserved
        let panels = Self.panels(format.rowWidth) + (format.keyIsOnce && !isFP8 ? 1 : 0)
        // The last query columns stay in registers where these suffice.
        let allShared = isFP8 && width == 256 && geometry.queryWidth % 64 == 0
        let queryPanels = (geometry.queryWidth - (allShared ? 0 : 1)) / 64
        let query = (isWide ? 1 : warpgroups) * queryPanels * 64 * 128 + (isWide ? 2 * 64 * 128 : 0)
        let block = !isWide && (limit - query) / (panels * 64 * 128) < 3 ? 32 : 64
        let stage = panels * block * 128

        var values = [
            "SHARED": geometry.shared, "VALUE": geometry.value, "KEY": geometry.key,
            "KEY_ONCE": format.keyIsOnce ? 1 : 0, "PAGE_SIZE": format.pageSize, "BLOCK_N": block,
            "WARPGROUPS": warpgroups,
        ]
        var stages = min(
            isWide ? 2 : !format.isTiled || warpgroups == 2 ? 6 : max(3, Self.inFlight / resident / stage),
            (limit - query) / stage)
        var memory = query + stages * stage
        if isFP8 {
            // Blocks as the consumers see them, rows as they are kept, keys with scales.
            stages = 2
            let (raw, side, left) = (block * width, block * 128 + 1024, limit - query - stages * stage)
            let raws = [4, 3].first { (left - $0 * raw) / side > $0 } ?? 2
            let sides = min(raws + 3, (left - raws * raw) / side)
            values["FP8"] = 1
            values["RAW_STAGES"] = raws
            values["SIDE_STAGES"] = sides
            memory = query + stages * stage + raws * raw + sides * side
        }
        try GPUAttentionError.require(
            stages >= (isWide || isFP8 ? 2 : 3), "row width", format.rowWidth, "one of which shared memory holds blocks"
        )
        values["STAGES"] = stages
        if !format.isTiled { values["GATHER"] = 1 }
        let heads = geometry.headsPerGroup
        queryTiles = 64 % heads == 0 || heads % 64 == 0
        values["QUERY_TILES"] = queryTiles ? 1 : 0

        file = isWide ? "decode_wide.cu" : "decode.cu"
        defines = values.mapValues(String.init)
        sharedMemory = memory
        residentBlocks = resident
        self.warpgroups = warpgroups
        tileRows = isWide ? 64 : 64 * warpgroups
        blockTokens = block
        rowTiles = (rows + tileRows - 1) / tileRows
        rowPanels = format.pageSize < block ? 1 : Self.panels(format.rowWidth) / (isWide ? 2 : 1)
        self.queryPanels = queryPanels
    }

    /// The name of the kernel in its file.
    public var kernel: String { String(file.dropLast(3)) }
    /// Threads of a block.
    public var threads: Int { 128 * (warpgroups + 1) }

    private static func panels(_ width: Int) -> Int { (width + 63) / 64 }
}
