/// A product of few rows with a weight on a GPU, for decoder steps in which each sequence gets one token: how
/// `row_products.cu` or, for more rows, `tall_products.cu` is compiled and launched for a shape. The reasons stand in
/// `docs/gpu-decoder.md`.
package struct CUDARowProduct: Sendable, Hashable {
    /// What becomes of the products.
    package enum Epilogue: Int, Sendable, CaseIterable {
        /// bf16 rows, with a bias where there is one.
        case store
        /// Added to the residual stream, with a bias where there is one; the next norm begins.
        case add
        /// SwiGLU of weight rows that come as 8 of the gate, 8 of up, ...
        case swiglu
        /// The largest of each row, or a sample.
        case choose
    }

    /// `struct RowProduct` of `row_products.cuh`: addresses on the GPU.
    package struct Operands: BitwiseCopyable {
        /// `[rows][width]` bf16.
        package var x: UInt64
        /// `[outputs][width]` in the product's format.
        package var weight: UInt64
        /// `[outputs]` float32, or 0.
        package var bias: UInt64 = 0
        /// With a norm: `[rows][inputParts]` float32, which add up to the sums of squares.
        package var squares: UInt64 = 0
        /// bf16: `[rows][outputs]`, with SwiGLU half as wide.
        package var out: UInt64 = 0
        /// Float32 `[rows][outputs]`: the residual stream; or where the products that one is chosen of are wanted, or 0.
        package var sums: UInt64 = 0
        /// `[outputs]` float32: the weight of the next norm.
        package var nextWeight: UInt64 = 0
        /// `[rows][squareParts]` float32: parts of the next norm's sums of squares.
        package var nextSquares: UInt64 = 0
        /// `[rows]` float32; 0 chooses the largest.
        package var temperatures: UInt64 = 0
        /// `[rows]` u64.
        package var seeds: UInt64 = 0
        /// `[rows]` int32: with the seed, what a sample depends on.
        package var positions: UInt64 = 0
        /// `[rows][parts]` float32 and int32: the best of each block.
        package var best: UInt64 = 0, bestIndex: UInt64 = 0
        /// With experts: `[chunks]` of expert, first row and rows.
        package var chunks: UInt64 = 0
        /// With experts: `[rows]` int32, which row of x a row is; or 0, the row itself.
        package var tokens: UInt64 = 0
        fileprivate var expertBytes: Int64 = 0
        /// Rows of x.
        package var rows: Int32
        fileprivate var outputs: Int32 = 0
        /// Of the norm.
        package var epsilon: Float = 0
        /// With ``Epilogue/store``, elements from row to row of the results; 0 for as many as there are outputs.
        package var stride: Int32 = 0
        /// With ``Epilogue/choose``: the token of the first output.
        package var firstToken: Int32 = 0
        private var unused: Int32 = 0

        /// Operands; everything else is set where the epilogue needs it.
        package init(x: UInt64, weight: UInt64, rows: Int) {
            self.x = x
            self.weight = weight
            self.rows = Int32(rows)
        }
    }

    /// Which kernel, and how it is compiled.
    fileprivate enum Kernel: Hashable {
        /// `row_products.cu`: rows of x and tiles of 16 weight rows in a block, warps that share out the width, units of 64
        /// elements whose x a warp has in shared memory at a time (0: in registers), how often; blocks of a multiprocessor that
        /// go on to further tiles, 0 for one tile each.
        case few(rows: Int, tiles: Int, warps: Int, staged: Int, buffers: Int = 1, resident: Int = 0)
        /// `tall_products.cu`: weight rows of a block, warpgroups of 64 rows of x, panels on their way; warps that expand weights.
        case tall(columns: Int, groups: Int, stages: Int, expanders: Int = 0)
    }

    /// Rows that belong to chunks, each of which meets the weight of an expert.
    package struct Experts: Sendable, Hashable {
        /// Weights, one after the other.
        package var count: Int
        /// The most chunks; those of no rows are skipped.
        package var chunks: Int
        /// Whether many rows meet each weight: then x has them in the order of the chunks, and no product has a norm.
        package var areTall: Bool

        /// Experts.
        package init(count: Int, chunks: Int, areTall: Bool) {
            (self.count, self.chunks, self.areTall) = (count, chunks, areTall)
        }
    }

    /// Elements of a row, and rows of the weight.
    package let width: Int, outputs: Int
    /// Rows of x.
    package let rows: Int
    /// What becomes of the products.
    package let epilogue: Epilogue
    /// Parts of a row's sum of squares, where x still gets the factor of a norm; 0 elsewhere.
    package let inputParts: Int
    /// How the weight lies in memory.
    package let format: CUDAWeightFormat
    /// Nil where all rows meet one weight.
    package let experts: Experts?
    private let kernel: Kernel
    /// Blocks over the outputs.
    private let columns: Int

    /// The shape's settings. `inputParts`: of the sums of squares, where there is a norm; 0 for none. `rows`: with experts, the
    /// most of a chunk. Precondition: the width is a multiple of 8 and of the format's blocks; outputs of 8 except with
    /// ``Epilogue/choose``, with SwiGLU of 16; experts store or have SwiGLU.
    package init(
        width: Int, outputs: Int, rows: Int, epilogue: Epilogue, inputParts: Int = 0, format: CUDAWeightFormat = .bf16,
        experts: Experts? = nil, multiprocessors: Int
    ) {
        precondition(width > 0 && width % 8 == 0 && outputs > 0 && rows > 0, "[\(rows), \(width)] x [\(outputs)]")
        precondition(
            epilogue == .choose || outputs % (epilogue == .swiglu ? 16 : 8) == 0, "\(outputs) outputs of \(epilogue)")
        self.width = width
        self.outputs = outputs
        self.rows = rows
        self.epilogue = epilogue
        self.inputParts = inputParts
        self.format = format
        self.experts = experts
        precondition(experts == nil || epilogue == .store || epilogue == .swiglu, "\(epilogue) of experts")
        precondition(width % format.dtype.blockSize == 0, "rows of \(width) elements of \(format)")
        // The same for all formats, so that they leave sums of squares in the same parts.
        let smallBlocks = (outputs + 15) / 16 * ((rows + 63) / 64)
        let isFew =
            experts.map { !$0.areTall } ?? (rows <= 16 || (epilogue != .choose && smallBlocks <= multiprocessors))
        kernel =
            isFew
            ? format.isQuantised
                ? Self.fewQuantised(width: width, outputs: outputs, rows: rows, epilogue, multiprocessors)
                : Self.few(width: width, rows: rows, epilogue)
            : Self.tall(width: width, outputs: outputs, rows: rows, epilogue, format, multiprocessors)
        let blocks = (outputs + kernel.columns - 1) / kernel.columns
        let rowBlocks = (rows + kernel.rows - 1) / kernel.rows
        // Blocks that go on to further tiles: as many as are on the GPU at a time.
        let resident = kernel.resident(epilogue) * multiprocessors * (experts == nil ? 1 : 2)
        columns =
            epilogue == .choose || kernel.repeats
            ? min(blocks, max(1, resident / (experts?.chunks ?? rowBlocks))) : blocks
    }

    /// Few rows are bound by the weight's way to the registers: many small blocks.
    private static func few(width: Int, rows: Int, _ epilogue: Epilogue) -> Kernel {
        let blockRows = [8, 16, 32].first { $0 >= rows } ?? 64
        let tiles = epilogue == .choose ? 2 : 1
        let units = (width + 63) / 64
        // Registers of 64 rows allow 12 warps, or 8 where each has many units.
        let most = blockRows < 64 ? 16 : units <= 24 ? 12 : 8
        let own = (units + most - 1) / most
        let warps = max(4, (units + own - 1) / own)
        if blockRows <= 16 && own * blockRows / 8 <= 6 {
            return .few(rows: blockRows, tiles: tiles, warps: warps, staged: 0)
        }
        // Two blocks on a multiprocessor, whose sums take the place of x unless they go on to further tiles.
        let room = (100 << 10) / (warps * blockRows * 128)
        return .few(rows: blockRows, tiles: tiles, warps: warps, staged: min(own, max(1, room)))
    }

    /// Blocks that stay on the GPU and go from tile to tile: a tile's weights are few bytes, those of the next one are on their
    /// way while its sums meet. One or two on a multiprocessor, whichever shares out the tiles more evenly; where x does not fit
    /// into shared memory, it comes again for each tile, and tiles are larger.
    private static func fewQuantised(
        width: Int, outputs: Int, rows: Int, _ epilogue: Epilogue, _ multiprocessors: Int
    ) -> Kernel {
        let blockRows = [8, 16, 32].first { $0 >= rows } ?? 64
        let (units, tiles, rowBlocks) = ((width + 63) / 64, (outputs + 15) / 16, (rows + 63) / 64)
        /// Warps that share out the units, at most so many, and the units of one.
        func warps(_ most: Int) -> (count: Int, own: Int) {
            let own = (units + most - 1) / most
            return ((units + own - 1) / own, own)
        }
        // Registers of many rows allow fewer warps.
        let most = blockRows == 8 ? 16 : blockRows == 16 ? 12 : 8
        let xBytes = units * blockRows * 128
        func sumBytes(_ warps: Int, tiles: Int) -> Int { warps * tiles * (blockRows / 8) * 512 }
        if blockRows == 8 {
            func load(_ resident: Int) -> Int {
                let blocks = multiprocessors * resident
                return (tiles * rowBlocks + blocks - 1) / blocks * resident
            }
            let (small, own) = warps(8)
            if load(2) <= load(1), xBytes + sumBytes(small, tiles: 1) <= 110 << 10 {
                return .few(rows: 8, tiles: 1, warps: small, staged: own, resident: 2)
            }
        }
        let (count, own) = warps(most)
        // The head's candidates take the registers that x would have.
        if own * blockRows / 8 <= 4, epilogue != .choose {
            return .few(rows: blockRows, tiles: 1, warps: count, staged: 0, resident: 1)
        }
        if xBytes + sumBytes(count, tiles: 1) <= 220 << 10 {
            return .few(rows: blockRows, tiles: 1, warps: count, staged: own, resident: 1)
        }
        // 64 rows have no registers for two tiles.
        let several = blockRows < 64 ? 2 : 1
        let room = (200 << 10) - sumBytes(count, tiles: several)
        let staged = min(own - 1, max(1, room / (count * 2 * blockRows * 128)))
        return .few(rows: blockRows, tiles: several, warps: count, staged: staged, buffers: 2, resident: 1)
    }

    /// The narrowest blocks that are on the GPU all at once, or the widest; the head's, which go on to further tiles, are wide.
    /// Other blocks leave room for one of the kernel before or after them.
    private static func tall(
        width: Int, outputs: Int, rows: Int, _ epilogue: Epilogue, _ format: CUDAWeightFormat, _ multiprocessors: Int
    ) -> Kernel {
        let groups = epilogue == .choose && rows > 64 ? 2 : 1
        let rowBlocks = (rows + 63) / 64
        let fitting = [16, 32, 48, 64, 96].first { (outputs + $0 - 1) / $0 * rowBlocks <= multiprocessors } ?? 128
        let columns = epilogue == .choose ? 128 : fitting
        // Registers of warps that expand weights leave no room for a second block.
        let room = groups == 2 || format.isQuantised ? 200 << 10 : 110 << 10
        let stages = min((width + 63) / 64, room / ((64 * groups + columns) * 128))
        return .tall(columns: columns, groups: groups, stages: stages, expanders: format.isQuantised ? 4 : 0)
    }

    /// Parts of the sums of squares that ``Epilogue/add`` leaves of a row.
    package var squareParts: Int {
        if case .tall(let columns, _, _, _) = kernel { return (outputs + columns - 1) / columns }
        return (outputs + 15) / 16
    }
    /// Candidates of a row that ``Epilogue/choose`` leaves.
    package var candidates: Int { columns }
    /// Bytes of dynamic shared memory.
    package var sharedMemory: Int { kernel.sharedMemory(epilogue) }
    /// The kernel's file.
    package var file: String {
        if case .tall = kernel { return "tall_products.cu" }
        return "row_products.cu"
    }
    /// Macros.
    package var defines: [String: Int] {
        var common = [
            "WIDTH": width, "NORM": inputParts > 0 ? 1 : 0, "PARTS": max(inputParts, 1), "EPILOGUE": epilogue.rawValue,
        ]
        if format.isQuantised { common["FORMAT"] = format.rawValue }
        if experts != nil { common["EXPERTS"] = 1 }
        var own: [String: Int]
        switch kernel {
        case .few(let rows, let tiles, let warps, let staged, _, let resident):
            own = ["ROWS": rows, "TILES": tiles, "WARPS": warps, "ROUND": staged]
            if resident > 0 { (own["REPEATS"], own["RESIDENT"]) = (1, resident) }
        case .tall(let columns, let groups, let stages, _):
            own = ["COLUMNS": columns, "GROUPS": groups, "STAGES": stages]
        }
        return common.merging(own) { $1 }
    }

    /// What is compiled.
    package var source: CUDASource { KernelSources.source(file, defines: defines.mapValues(String.init)) }

    /// The compiled kernel. Finding it hashes its source: it is worth keeping.
    package func load(_ modules: CUDAModuleCache) throws -> CUDAKernel {
        try modules.kernel(file == "tall_products.cu" ? "tall_product" : "row_product", in: source)
    }

    /// Queues the product by the kernel that ``load(_:)`` gave; its start overlaps the end of the kernel before it, for whose
    /// results it waits.
    package func launch(_ loaded: CUDAKernel, _ operands: Operands, on stream: CUDAStream) throws {
        var operands = operands
        operands.outputs = Int32(outputs)
        if operands.stride == 0 { operands.stride = Int32(outputs) }
        operands.expertBytes = Int64(format.byteCount(rows: outputs, width: width))
        let grid = CUDAExtent(columns, experts?.chunks ?? (rows + kernel.rows - 1) / kernel.rows)
        guard case .tall(let weightRows, _, _, _) = kernel else {
            return try loaded.launch(
                grid: grid, block: CUDAExtent(kernel.threads), sharedMemory: sharedMemory,
                attributes: [.overlapsPredecessor], on: stream, .value(operands))
        }
        func map(_ address: UInt64, rows: Int, box: Int, count: Int = 1) throws -> CUDATensorMap {
            try CUDATensorMap(
                .bf16, address: address, extents: [width, rows, count], strides: [width * 2, width * 2 * rows],
                box: [64, box, 1])
        }
        let x = try map(operands.x, rows: Int(operands.rows), box: kernel.rows)
        // Expanded weights need no map.
        let weight =
            format.isQuantised
            ? x : try map(operands.weight, rows: outputs, box: weightRows, count: experts?.count ?? 1)
        try loaded.launch(
            grid: grid, block: CUDAExtent(kernel.threads), sharedMemory: sharedMemory,
            attributes: [.overlapsPredecessor], on: stream, .value(x), .value(weight), .value(operands))
    }
}

extension CUDARowProduct.Kernel {
    /// Rows of x and outputs of a block.
    fileprivate var rows: Int {
        switch self {
        case .few(let rows, _, _, _, _, _): rows
        case .tall(_, let groups, _, _): 64 * groups
        }
    }
    fileprivate var columns: Int {
        switch self {
        case .few(_, let tiles, _, _, _, _): 16 * tiles
        case .tall(let columns, _, _, _): columns
        }
    }
    fileprivate var threads: Int {
        switch self {
        case .few(_, _, let warps, _, _, _): 32 * warps
        case .tall(_, let groups, _, let expanders): 128 * groups + 32 + 32 * expanders
        }
    }
    /// Whether blocks go on to further tiles whatever becomes of the products.
    fileprivate var repeats: Bool {
        if case .few(_, _, _, _, _, let resident) = self { resident > 0 } else { false }
    }
    fileprivate func sharedMemory(_ epilogue: CUDARowProduct.Epilogue) -> Int {
        switch self {
        case .few(let rows, let tiles, let warps, let staged, let buffers, _):
            let (x, sums) = (warps * staged * buffers * rows * 128, warps * tiles * (rows / 8) * 512)
            return epilogue == .choose || repeats ? x + sums : max(x, sums)
        case .tall(let columns, let groups, let stages, _): return stages * (64 * groups + columns) * 128
        }
    }
    /// Blocks on a multiprocessor.
    fileprivate func resident(_ epilogue: CUDARowProduct.Epilogue) -> Int {
        switch self {
        case .few(_, _, _, _, _, let resident) where resident > 0: resident
        case .few: max(1, min(3, (220 << 10) / sharedMemory(epilogue)))
        case .tall(_, let groups, _, let expanders): groups == 1 && expanders == 0 ? 2 : 1
        }
    }
}
