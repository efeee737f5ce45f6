import ApusAttention
import ApusTensor

/// Tied and latent attention (GTA, MLA, GLA) between a layer's first product and its output product, for steps and prompts.
///
/// Latents are read absorbed: key and value at once. The up-projection of keys meets the queries, that of values what attention
/// gives, each as a product for each head, and is not multiplied into the projections around it when weights are loaded:
/// h_q d_c r elements instead of h_q d (r + d_c) would be read, of a query latent (or hidden state) of r elements and heads of d
/// beside latents of d_c, which is 1.6 (GLA) to 2.7 times (MLA) as much with the paper's widths. `docs/gpu-decoder.md` has more.
extension GPUDecoder {
    /// Queues what follows the first product's rows, up to what the output product reads, which is returned.
    /// - Parameters:
    ///   - rows: tokens whose projections have been computed, biases included.
    ///   - queryUp: queues the product of the normalised query latents of MLA with the projection to queries, and adds its bias.
    ///   - attend: queues attention from ``GPUDecoderMemory/queries`` to ``GPUDecoderMemory/attended``.
    func queueShared(
        layer index: Int, rows: Int, at places: GPUGroupedAttention.Places,
        queryUp: (_ weight: CUDAWeight, _ bias: CUDABuffer?) throws -> Void, attend: () throws -> Void
    ) throws -> CUDABuffer {
        guard case .shared(let append) = attention else {
            preconditionFailure("grouped attention has its own launches")
        }
        let latent = weights.layers[index].latent
        let norms = GPUSharedAppend.Norms(
            states: latent?.norm.address ?? 0, queries: latent?.queryNorm?.address ?? 0,
            epsilon: Float(shape.latent?.normEpsilon ?? 0))
        try append.run(
            projected: memory.projected.address,
            result: latent == nil ? memory.queries.address : memory.queryLatents.address, tokens: rows, at: places,
            rotary: rotary, norms: norms, pages: pages(layer: index), on: stream)
        guard let latent, let products = latentProducts(rows: rows) else {
            try attend()
            return memory.attended
        }
        func multiply(_ part: LatentProducts.Part, _ weight: CUDABuffer, _ bias: CUDABuffer?) throws {
            func rows(_ place: LatentProducts.Place) -> GPUHeadProduct.Rows {
                GPUHeadProduct.Rows(buffer(place).address, stride: place.stride, headStride: place.headStride)
            }
            try part.product.launch(
                loadedProducts.kernel(part.product), x: rows(part.x), weight: weight.address, bias: bias?.address ?? 0,
                out: rows(part.out), rows: products.rows, at: places, rotary: rotary, on: stream)
        }
        if let up = latent.queryUp {
            if let split = products.splitQueries {
                try multiply(split, up.buffer, latent.queryUpBias)
            } else {
                try queryUp(up, latent.queryUpBias)
            }
        }
        try multiply(products.keys, latent.keyUp, nil)
        try attend()
        try multiply(products.values, latent.valueUp, latent.valueBias)
        return memory.headValues
    }

    /// The products of each head; none without latents.
    func headProducts(rows: Int) -> [GPUHeadProduct] { latentProducts(rows: rows)?.all ?? [] }

    private func latentProducts(rows: Int) -> LatentProducts? {
        LatentProducts(shape, rotary: configuration.rotary, rows: rows)
    }

    private func buffer(_ place: LatentProducts.Place) -> CUDABuffer {
        switch place.memory {
        case .projected: memory.projected
        case .queryLatents: memory.queryLatents
        case .latentQueries: memory.latentQueries
        case .queries: memory.queries
        case .attended: memory.attended
        case .headValues: memory.headValues
        }
    }

    /// Where attention of new tokens reads and writes.
    func attentionLayer(_ pages: GPUGroupedAttention.Pages) -> GPUDecodeAttention.Layer {
        GPUDecodeAttention.Layer(
            query: memory.queries.address, cache: pages.cache, pageCount: pageCount, pageTable: pages.table,
            pageStride: pages.stride, output: memory.attended.address, logSumExp: memory.logSumExp.address)
    }
}

/// The products of latent attention that have a weight for each head, and where their operands lie.
package struct LatentProducts {
    /// Buffers of ``GPUDecoderMemory``.
    package enum Memory { case projected, queryLatents, latentQueries, queries, attended, headValues }

    /// Rows from the beginning of a buffer on: elements from row to row and from head to head.
    package struct Place {
        package let memory: Memory
        package let stride: Int, headStride: Int
    }

    /// A product.
    package struct Part {
        package let product: GPUHeadProduct
        package let x: Place, out: Place
    }

    /// Tokens.
    package let rows: Int
    /// Of several query latents, each with the projection to the queries of its heads.
    package let splitQueries: Part?
    /// Queries with the up-projections of keys, and their rotated parts; values.
    package let keys: Part, values: Part

    /// Nil without latents.
    package init?(_ shape: GPUDecoderShape, rotary: RotaryConfiguration, rows: Int) {
        guard let latent = shape.latent else { return nil }
        let geometry = shape.format.geometry
        self.rows = rows
        if case .latents(let count, let width) = shape.queries, count > 1 {
            let outputs = shape.latentQueries / count
            splitQueries = Part(
                product: GPUHeadProduct(inputs: width, outputs: outputs, heads: count, rows: rows),
                x: Place(memory: .queryLatents, stride: count * width, headStride: width),
                out: Place(memory: .latentQueries, stride: shape.latentQueries, headStride: outputs))
        } else {
            splitQueries = nil
        }
        // Without a query latent, queries lie at the beginning of the first product's rows.
        let queries =
            latent.queryRank == nil
            ? Place(memory: .projected, stride: shape.projected, headStride: latent.queryWidth)
            : Place(memory: .latentQueries, stride: shape.latentQueries, headStride: latent.queryWidth)
        keys = Part(
            product: GPUHeadProduct(
                inputs: latent.contentWidth, outputs: geometry.shared, heads: shape.heads, rows: rows,
                tail: GPUHeadProduct.Tail(width: geometry.key, rotated: rotary.width, style: rotary.style)),
            x: queries,
            out: Place(memory: .queries, stride: shape.attentionQueries, headStride: geometry.queryWidth))
        values = Part(
            product: GPUHeadProduct(
                inputs: geometry.shared, outputs: latent.valueWidth, heads: shape.heads, rows: rows),
            x: Place(memory: .attended, stride: shape.attentionOutputs, headStride: geometry.outputWidth),
            out: Place(memory: .headValues, stride: shape.attended, headStride: latent.valueWidth))
    }

    /// All of them.
    package var all: [GPUHeadProduct] { (splitQueries.map { [$0.product] } ?? []) + [keys.product, values.product] }
}
