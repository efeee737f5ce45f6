import ApusTensor

/// Products of bf16 rows with a weight for each head, on a GPU: how `head_products.cu` is compiled and launched for a shape.
///
///     out[r, h, n] = sum_k x[r, h, k] weight[h, n, k] + bias[h, n]
///
/// Latent attention's: queries with the up-projections of keys, what attention gives with those of values, query latents of
/// several latent heads with the projections to queries.
package struct GPUHeadProduct: Sendable, Hashable {
    /// What a head of x has behind its products' elements: elements that are rotated and put behind the outputs.
    package struct Tail: Sendable, Hashable {
        package let width: Int, rotated: Int
        package let style: RotaryStyle

        /// `width` elements, of which the first `rotated` are.
        package init(width: Int, rotated: Int, style: RotaryStyle) {
            self.width = width
            self.rotated = rotated
            self.style = style
        }
    }

    /// Rows in memory: distances in elements from row to row and from head to head, multiples of 8.
    package struct Rows: Sendable {
        let address: UInt64
        let stride: Int, headStride: Int

        /// Rows that begin at a multiple of 16.
        package init(_ address: UInt64, stride: Int, headStride: Int) {
            self.address = address
            self.stride = stride
            self.headStride = headStride
        }
    }

    /// `struct HeadProduct` of `head_products.cu`.
    private struct Parameters: BitwiseCopyable {
        var x: UInt64, weight: UInt64, bias: UInt64, out: UInt64, cosine: UInt64, sine: UInt64
        var positions: UInt64, lengths: UInt64
        var xRow: Int64, xHead: Int64, outRow: Int64, outHead: Int64
        var rows: Int32
        var padding: Int32 = 0
    }

    /// Elements of a head that are multiplied, and its outputs.
    package let inputs: Int, outputs: Int
    /// Heads.
    package let heads: Int
    /// What a head has behind them.
    package let tail: Tail?
    /// Tiles of 16 rows of a block, strips of 32 outputs, warps that share out the elements.
    private let rowTiles: Int, strips: Int, split: Int

    /// The settings for about `rows` rows. Few are bound by latency: blocks are small, and warps share out the inputs.
    /// Precondition: inputs and outputs are multiples of 8.
    package init(inputs: Int, outputs: Int, heads: Int, rows: Int, tail: Tail? = nil) {
        precondition(
            inputs > 0 && inputs % 8 == 0 && outputs > 0 && outputs % 8 == 0 && rows > 0,
            "[\(rows), \(heads), \(inputs)] x [\(outputs)]")
        self.inputs = inputs
        self.outputs = outputs
        self.heads = heads
        self.tail = tail
        rowTiles = rows <= 16 ? 1 : rows <= 32 ? 2 : 4
        (strips, split) = rows > 512 ? (4, 1) : (1, inputs > 128 ? 4 : inputs > 32 ? 2 : 1)
    }

    /// Macros.
    package var defines: [String: Int] {
        var found = [
            "INPUTS": inputs, "OUTPUTS": outputs, "ROW_TILES": rowTiles, "STRIPS": strips, "SPLIT": split,
            "TAIL": tail == nil ? 0 : 1,
        ]
        guard let tail else { return found }
        found["KEY"] = tail.width
        found["ROTATED"] = tail.rotated
        found["INTERLEAVED"] = tail.style == .interleaved ? 1 : 0
        return found
    }

    /// Blocks for `rows` rows: of outputs, and of the tail; heads; rows.
    package func grid(rows: Int) -> [Int] {
        let columns = (outputs + 32 * strips - 1) / (32 * strips) + (tail == nil ? 0 : 1)
        return [columns, heads, (rows + 16 * rowTiles - 1) / (16 * rowTiles)]
    }

    /// The compiled kernel. Finding it hashes its source: it is worth keeping.
    package func load(_ modules: CUDAModuleCache) throws -> CUDAKernel {
        try modules.kernel(
            "head_product", in: AttentionSources.source("head_products.cu", defines: defines.mapValues(String.init)))
    }

    /// The kernel that adds a bias to rows: `add_row_bias` of any variant.
    package static func loadBias(_ modules: CUDAModuleCache) throws -> CUDAKernel {
        let any = GPUHeadProduct(inputs: 8, outputs: 8, heads: 1, rows: 1)
        return try modules.kernel(
            "add_row_bias", in: AttentionSources.source("head_products.cu", defines: any.defines.mapValues(String.init))
        )
    }

    /// Queues the product of `rows` rows by the kernel that ``load(_:)`` gave; its start overlaps the end of the kernel before
    /// it, for whose results it waits. `weight`: `[head][output][input]`; `bias`: `[head][output]` float32, or 0.
    package func launch(
        _ loaded: CUDAKernel, x: Rows, weight: UInt64, bias: UInt64 = 0, out: Rows, rows: Int,
        at places: GPUGroupedAttention.Places, rotary: GPURotaryTable, on stream: CUDAStream
    ) throws {
        guard rows > 0 else { return }
        var parameters = Parameters(
            x: x.address, weight: weight, bias: bias, out: out.address, cosine: rotary.cosine, sine: rotary.sine,
            positions: 0, lengths: 0, xRow: Int64(x.stride), xHead: Int64(x.headStride), outRow: Int64(out.stride),
            outHead: Int64(out.headStride), rows: Int32(rows))
        switch places {
        case .lengths(let lengths): parameters.lengths = lengths
        case .tokens(_, let positions): parameters.positions = positions
        }
        let grid = grid(rows: rows)
        try loaded.launch(
            grid: CUDAExtent(grid[0], grid[1], grid[2]), block: CUDAExtent(32 * strips * split),
            attributes: [.overlapsPredecessor], on: stream, .value(parameters))
    }
}
