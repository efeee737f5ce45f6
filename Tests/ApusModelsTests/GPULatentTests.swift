import ApusAttention
import ApusModels
import ApusTensor
import Testing

/// Where tied and latent attention on a GPU find their operands.
@Suite struct GPULatentTests {
    private static let shapes = GPUDecoderCheck.shapes.filter { $0.configuration.attention != .grouped }

    /// What a product reads and writes lies side by side within rows, and is all that rows have where nothing else is said.
    @Test func placesOfOperands() throws {
        var seen: Set<String> = []
        for (name, model) in Self.shapes.map({ ($0.name, $0.configuration) }) {
            let shape = try GPUDecoderShape(model)
            let geometry = try model.geometry(layer: 0)
            let states = geometry.groups * geometry.outputWidth + geometry.key
            guard let latent = shape.latent else {
                #expect(shape.projected == shape.attentionQueries + states)
                #expect(
                    shape.attentionOutputs == shape.attended
                        && LatentProducts(shape, rotary: model.rotary, rows: 1) == nil)
                seen.insert("tied")
                continue
            }
            #expect(shape.projected == (latent.queryRank ?? shape.latentQueries) + states, "\(name)")
            for rows in [1, 16, 17, 64, 600] {
                let products = try #require(LatentProducts(shape, rotary: model.rotary, rows: rows))
                let (keys, values) = (products.keys, products.values)
                #expect(keys.product.inputs + (keys.product.tail?.width ?? 0) == keys.x.headStride)
                #expect(keys.product.outputs + latent.rotaryWidth == keys.out.headStride)
                #expect(keys.out.memory == .queries && keys.out.stride == shape.attentionQueries)
                #expect(keys.x.memory == (latent.queryRank == nil ? .projected : .latentQueries))
                #expect(keys.x.stride == (latent.queryRank == nil ? shape.projected : shape.latentQueries))
                #expect(values.x.memory == .attended && values.x.stride == shape.attentionOutputs)
                #expect(values.product.inputs == values.x.headStride)
                #expect(values.out.memory == .headValues && values.out.stride == shape.attended)
                #expect(values.product.outputs == values.out.headStride)
                for part in [products.splitQueries, keys, values].compactMap({ $0 }) {
                    for place in [part.x, part.out] {
                        #expect(place.headStride * part.product.heads <= place.stride)
                        #expect(place.stride % 8 == 0 && place.headStride % 8 == 0)
                    }
                }
                if let split = products.splitQueries {
                    #expect(split.product.inputs * split.product.heads == latent.queryRank)
                    #expect(split.product.outputs * split.product.heads == shape.latentQueries)
                    seen.insert("split")
                }
            }
            seen.insert(latent.queryRank == nil ? "direct" : "query latent")
            if shape.readsPromptsByToken { seen.insert("by token") }
        }
        #expect(seen == ["tied", "split", "direct", "query latent", "by token"])
    }

    /// Blocks cover all rows and outputs.
    @Test func gridsOfHeadProducts() {
        for (inputs, outputs) in [(64, 256), (48, 512), (512, 128), (8, 8), (256, 72)] {
            for tail in [nil, GPUHeadProduct.Tail(width: 32, rotated: 32, style: .halfSplit)] {
                for rows in [1, 16, 17, 33, 512, 513, 8192] {
                    let product = GPUHeadProduct(inputs: inputs, outputs: outputs, heads: 3, rows: rows, tail: tail)
                    let (grid, defines) = (product.grid(rows: rows), product.defines)
                    let columns = grid[0] - (tail == nil ? 0 : 1)
                    let width = 32 * (defines["STRIPS"] ?? 0)
                    #expect(columns * width >= outputs && (columns - 1) * width < outputs)
                    #expect(grid[1] == 3)
                    let height = 16 * (defines["ROW_TILES"] ?? 0)
                    #expect(grid[2] * height >= rows && (grid[2] - 1) * height < rows)
                }
            }
        }
    }

    /// Element (row, column) of a head's up-projection, as a number.
    private func element(_ head: Int, _ row: Int, _ column: Int) -> UInt16 { UInt16(head * 10000 + row * 100 + column) }

    @Test func upProjectionsAreCut() {
        let (heads, content, value, width) = (3, 5, 4, 7)
        let widths = LatentConfiguration(
            latentHeads: 1, latentWidth: width, rotaryWidth: 2, contentWidth: content, valueWidth: value, queryRank: nil
        )
        let cut = LatentUpProjection(widths, heads: heads)
        func elements(_ rows: Range<Int>) -> [UInt16] {
            (0..<heads).flatMap { head in
                rows.flatMap { row in (0..<width).map { element(head, row, $0) } }
            }
        }
        let up = elements(0..<content + value)
        #expect(cut.values(up) == elements(content..<content + value))
        let keys = (0..<heads).flatMap { head in
            (0..<width).flatMap { column in (0..<content).map { element(head, $0, column) } }
        }
        #expect(cut.keys(up) == keys)
        let bias = (0..<heads * (content + value)).map { Float($0) }
        #expect(cut.valueBiases(bias) == [5, 6, 7, 8, 14, 15, 16, 17, 23, 24, 25, 26])
    }

    /// Each token of a chunk sees the pages of its sequence, up to the chunk's end.
    @Test func pagesOfTokens() {
        let rows = [
            GPUDecoder.Row(tokens: [Int32](repeating: 1, count: 100), cached: 30, pages: [7, 3, 9, 5]),
            GPUDecoder.Row(tokens: [1], cached: 0, pages: [2, 8]),
        ]
        let (table, stride) = GPUDecoder.tableOfTokens(
            [.init(row: 0, first: 97, count: 2), .init(row: 1, first: 0, count: 1)], of: rows)
        #expect(stride == 3)
        #expect(table == [7, 3, 9, 7, 3, 9, 2, 0, 0])
    }
}
