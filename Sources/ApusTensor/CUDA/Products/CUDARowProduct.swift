/// A product of few rows with a bf16 weight on a GPU, for decoder steps in which each sequence gets one token: how
/// `row_products.cu` is compiled and launched for a shape. The reasons stand in `docs/gpu-decoder.md`.
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

    /// `struct RowProduct` of `row_products.cu`: addresses on the GPU.
    package struct Operands: BitwiseCopyable {
        /// `[rows][width]` bf16.
        package var x: UInt64
        /// `[outputs][width]` bf16.
        package var weight: UInt64
        /// `[outputs]` float32, or 0.
        package var bias: UInt64 = 0
        /// With a norm: `[rows][squareParts]` float32, which add up to the sums of squares.
        package var squares: UInt64 = 0
        /// bf16: `[rows][outputs]`, with SwiGLU half as wide.
        package var out: UInt64 = 0
        /// Float32 `[rows][outputs]`: the residual stream; or where the products that one is chosen of are wanted, or 0.
        package var sums: UInt64 = 0
        /// `[outputs]` float32: the weight of the next norm.
        package var nextWeight: UInt64 = 0
        /// `[rows][tiles]` float32: parts of the next norm's sums of squares.
        package var nextSquares: UInt64 = 0
        /// `[rows]` float32; 0 chooses the largest.
        package var temperatures: UInt64 = 0
        /// `[rows]` u64.
        package var seeds: UInt64 = 0
        /// `[rows]` int32: with the seed, what a sample depends on.
        package var positions: UInt64 = 0
        /// `[rows][parts]` float32 and int32: the best of each block.
        package var best: UInt64 = 0, bestIndex: UInt64 = 0
        /// Rows of x.
        package var rows: Int32
        fileprivate var outputs: Int32 = 0
        /// Parts of a row's sum of squares.
        package var squareParts: Int32 = 0
        /// Of the norm.
        package var epsilon: Float = 0

        /// Operands; everything else is set where the epilogue needs it.
        package init(x: UInt64, weight: UInt64, rows: Int) {
            self.x = x
            self.weight = weight
            self.rows = Int32(rows)
        }
    }

    /// Elements of a row, and rows of the weight.
    package let width: Int, outputs: Int
    /// Rows of x.
    package let rows: Int
    /// What becomes of the products.
    package let epilogue: Epilogue
    /// Whether x still gets the factor of a norm.
    package let hasNorm: Bool
    /// Rows of x in a block; tiles of 16 weight rows in a block at a time.
    let blockRows: Int, tiles: Int
    /// Warps of a block, which share out the width.
    let warps: Int
    /// Units of 64 elements whose x a warp has in shared memory at a time; 0: in registers.
    let staged: Int
    /// Blocks over the outputs.
    let columns: Int

    /// The shape's settings. Precondition: the width is a multiple of 8; with SwiGLU, outputs of 16.
    package init(
        width: Int, outputs: Int, rows: Int, epilogue: Epilogue, hasNorm: Bool, multiprocessors: Int
    ) {
        precondition(width > 0 && width % 8 == 0 && outputs > 0 && rows > 0, "[\(rows), \(width)] x [\(outputs)]")
        precondition(epilogue != .swiglu || outputs % 16 == 0, "SwiGLU of \(outputs) rows by turns")
        self.width = width
        self.outputs = outputs
        self.rows = rows
        self.epilogue = epilogue
        self.hasNorm = hasNorm
        blockRows = [8, 16, 32].first { $0 >= rows } ?? 64
        let all = (outputs + 15) / 16
        let rowBlocks = (rows + blockRows - 1) / blockRows
        // Few rows are bound by the weight's way to the registers: many small blocks. Many rows come again for each block.
        let isLarge = blockRows >= 32 && all * rowBlocks > multiprocessors * 3 / 2
        tiles = epilogue == .choose || isLarge ? 2 : 1
        let units = (width + 63) / 64
        // Registers of 64 rows and two tiles allow 12 warps, or 8 where each has many units.
        let most = blockRows < 64 ? 16 : units <= 24 ? 12 : 8
        let own = (units + most - 1) / most
        let warps = max(4, (units + own - 1) / own)
        self.warps = warps
        let sums = warps * tiles * (blockRows / 8) * 512
        if blockRows <= 16 && own * blockRows / 8 <= 6 {
            staged = 0
        } else {
            // Two blocks on a multiprocessor where sums take the place of x; a block that goes on keeps both.
            let room = epilogue == .choose ? (224 << 10) - sums : 100 << 10
            staged = min(own, max(1, room / (warps * blockRows * 128)))
        }
        let blocks = (all + tiles - 1) / tiles
        // Blocks that go on to further tiles: as many as are on the GPU at a time.
        let resident = multiprocessors * (blockRows <= 16 ? 3 : 1) / rowBlocks
        columns = epilogue == .choose ? min(blocks, max(1, resident)) : blocks
    }

    /// Parts of the sums of squares that ``Epilogue/add`` leaves of a row.
    package var squareParts: Int { (outputs + 15) / 16 }
    /// Candidates of a row that ``Epilogue/choose`` leaves.
    package var candidates: Int { columns }
    /// Bytes of dynamic shared memory.
    package var sharedMemory: Int {
        let (x, sums) = (warps * staged * blockRows * 128, warps * tiles * (blockRows / 8) * 512)
        return epilogue == .choose ? x + sums : max(x, sums)
    }
    /// Macros.
    package var defines: [String: Int] {
        [
            "WIDTH": width, "ROWS": blockRows, "TILES": tiles, "WARPS": warps, "NORM": hasNorm ? 1 : 0,
            "EPILOGUE": epilogue.rawValue, "ROUND": staged,
        ]
    }

    /// What is compiled.
    package var source: CUDASource {
        KernelSources.source("row_products.cu", defines: defines.mapValues(String.init))
    }

    /// Queues the product; its start overlaps the end of the kernel before it, for whose results it waits.
    package func launch(_ operands: Operands, on stream: CUDAStream) throws {
        var operands = operands
        operands.outputs = Int32(outputs)
        try stream.device.modules.kernel("row_product", in: source).launch(
            grid: CUDAExtent(columns, (rows + blockRows - 1) / blockRows), block: CUDAExtent(32 * warps),
            sharedMemory: sharedMemory, attributes: [.overlapsPredecessor], on: stream, .value(operands))
    }
}
