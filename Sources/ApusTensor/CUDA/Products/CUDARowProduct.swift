/// A product of few rows with a bf16 weight on a GPU, for decoder steps in which each sequence gets one token: how
/// `row_products.cu`, or for more than 16 rows `tall_products.cu`, is compiled and launched for a shape. The reasons stand in `docs/gpu-decoder.md`.
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
        /// `[outputs][width]` bf16.
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
        /// Rows of x.
        package var rows: Int32
        fileprivate var outputs: Int32 = 0
        /// Of the norm.
        package var epsilon: Float = 0
        private var unused: Int32 = 0

        /// Operands; everything else is set where the epilogue needs it.
        package init(x: UInt64, weight: UInt64, rows: Int) {
            self.x = x
            self.weight = weight
            self.rows = Int32(rows)
        }
    }

    /// Which kernel, and how it is compiled.
    private enum Kernel: Hashable {
        /// `row_products.cu`: rows of x and tiles of 16 weight rows in a block, warps that share out the width, units of 64
        /// elements whose x a warp has in shared memory at a time (0: in registers).
        case few(rows: Int, tiles: Int, warps: Int, staged: Int)
        /// `tall_products.cu`: weight rows of a block, warpgroups of 64 rows of x, panels on their way.
        case tall(columns: Int, groups: Int, stages: Int)
    }

    /// Elements of a row, and rows of the weight.
    package let width: Int, outputs: Int
    /// Rows of x.
    package let rows: Int
    /// What becomes of the products.
    package let epilogue: Epilogue
    /// Parts of a row's sum of squares, where x still gets the factor of a norm; 0 elsewhere.
    package let inputParts: Int
    private let kernel: Kernel
    /// Blocks over the outputs.
    private let columns: Int

    /// The shape's settings. `inputParts`: of the sums of squares, where there is a norm; 0 for none. Precondition: the width is
    /// a multiple of 8; outputs too except with ``Epilogue/choose``, with SwiGLU of 16.
    package init(
        width: Int, outputs: Int, rows: Int, epilogue: Epilogue, inputParts: Int = 0, multiprocessors: Int
    ) {
        precondition(width > 0 && width % 8 == 0 && outputs > 0 && rows > 0, "[\(rows), \(width)] x [\(outputs)]")
        precondition(epilogue == .choose || outputs % (epilogue == .swiglu ? 16 : 8) == 0, "\(outputs) outputs")
        self.width = width
        self.outputs = outputs
        self.rows = rows
        self.epilogue = epilogue
        self.inputParts = inputParts
        kernel =
            rows <= 16
            ? Self.few(width: width, outputs: outputs, rows: rows, epilogue, multiprocessors)
            : Self.tall(width: width, outputs: outputs, rows: rows, epilogue, multiprocessors)
        let (blocks, resident): (Int, Int)
        switch kernel {
        case .few(_, let tiles, _, _):
            (blocks, resident) = ((outputs + 16 * tiles - 1) / (16 * tiles), 3)
        case .tall(let columns, let groups, _):
            let rowBlocks = (rows + 64 * groups - 1) / (64 * groups)
            (blocks, resident) = ((outputs + columns - 1) / columns, 1)
            if epilogue == .choose {
                self.columns = min(blocks, max(1, multiprocessors / rowBlocks))
                return
            }
        }
        // Blocks that go on to further tiles: as many as are on the GPU at a time.
        columns = epilogue == .choose ? min(blocks, resident * multiprocessors) : blocks
    }

    /// Few rows are bound by the weight's way to the registers: many small blocks.
    private static func few(
        width: Int, outputs: Int, rows: Int, _ epilogue: Epilogue, _ multiprocessors: Int
    ) -> Kernel {
        let blockRows = rows <= 8 ? 8 : 16
        let tiles = epilogue == .choose || outputs >= 32 * multiprocessors ? 2 : 1
        let units = (width + 63) / 64
        let own = (units + 15) / 16
        let warps = max(4, (units + own - 1) / own)
        if own * blockRows / 8 <= 6 { return .few(rows: blockRows, tiles: tiles, warps: warps, staged: 0) }
        let room = (100 << 10) / (warps * blockRows * 128)
        return .few(rows: blockRows, tiles: tiles, warps: warps, staged: min(own, max(1, room)))
    }

    /// The narrowest blocks that are on the GPU all at once, or the widest; those that go on to further tiles, wide ones.
    private static func tall(
        width: Int, outputs: Int, rows: Int, _ epilogue: Epilogue, _ multiprocessors: Int
    ) -> Kernel {
        let groups = epilogue == .choose && rows > 64 ? 2 : 1
        let rowBlocks = (rows + 63) / 64
        let fitting = [16, 32, 48, 64, 96].first { (outputs + $0 - 1) / $0 * rowBlocks <= multiprocessors } ?? 128
        let columns = epilogue == .choose ? 128 * groups : fitting
        let stage = (64 * groups + columns) * 128
        return .tall(columns: columns, groups: groups, stages: min((width + 63) / 64 * 2, 16, (200 << 10) / stage))
    }

    /// Parts of the sums of squares that ``Epilogue/add`` leaves of a row.
    package var squareParts: Int {
        if case .tall(let columns, _, _) = kernel { return (outputs + columns - 1) / columns }
        return (outputs + 15) / 16
    }
    /// Candidates of a row that ``Epilogue/choose`` leaves.
    package var candidates: Int { columns }
    /// Bytes of dynamic shared memory.
    package var sharedMemory: Int {
        switch kernel {
        case .few(let rows, let tiles, let warps, let staged):
            let (x, sums) = (warps * staged * rows * 128, warps * tiles * (rows / 8) * 512)
            return epilogue == .choose ? x + sums : max(x, sums)
        case .tall(let columns, let groups, let stages): return stages * (64 * groups + columns) * 128
        }
    }
    /// The kernel's file.
    package var file: String {
        if case .tall = kernel { return "tall_products.cu" }
        return "row_products.cu"
    }
    /// Macros.
    package var defines: [String: Int] {
        let common = [
            "WIDTH": width, "NORM": inputParts > 0 ? 1 : 0, "PARTS": max(inputParts, 1), "EPILOGUE": epilogue.rawValue,
        ]
        let own =
            switch kernel {
            case .few(let rows, let tiles, let warps, let staged):
                ["ROWS": rows, "TILES": tiles, "WARPS": warps, "ROUND": staged]
            case .tall(let columns, let groups, let stages):
                ["COLUMNS": columns, "GROUPS": groups, "STAGES": stages]
            }
        return common.merging(own) { $1 }
    }

    /// What is compiled.
    package var source: CUDASource { KernelSources.source(file, defines: defines.mapValues(String.init)) }

    /// Queues the product; its start overlaps the end of the kernel before it, for whose results it waits.
    package func launch(_ operands: Operands, on stream: CUDAStream) throws {
        var operands = operands
        operands.outputs = Int32(outputs)
        let modules = stream.device.modules
        switch kernel {
        case .few(let blockRows, _, let warps, _):
            try modules.kernel("row_product", in: source).launch(
                grid: CUDAExtent(columns, (rows + blockRows - 1) / blockRows), block: CUDAExtent(32 * warps),
                sharedMemory: sharedMemory, attributes: [.overlapsPredecessor], on: stream, .value(operands))
        case .tall(let weightRows, let groups, _):
            func map(_ address: UInt64, rows: Int, box: Int) throws -> CUDATensorMap {
                try CUDATensorMap(
                    .bf16, address: address, extents: [width, rows, 1], strides: [width * 2, width * 2 * rows],
                    box: [64, box, 1])
            }
            let x = try map(operands.x, rows: rows, box: 64 * groups)
            let weight = try map(operands.weight, rows: outputs, box: weightRows)
            try modules.kernel("tall_product", in: source).launch(
                grid: CUDAExtent(columns, (rows + 64 * groups - 1) / (64 * groups)),
                block: CUDAExtent(128 * groups + 32),
                sharedMemory: sharedMemory, attributes: [.overlapsPredecessor], on: stream, .value(x), .value(weight),
                .value(operands))
        }
    }
}
