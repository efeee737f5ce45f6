import ApusAttention
import ApusTensor

/// Steps in which each sequence gets one token.
extension GPUDecoder {
    /// Numbers of sequences that graphs are recorded for: a step of fewer runs the next larger one.
    package static func bucket(_ sequences: Int) -> Int {
        if sequences <= 8 { return [1, 2, 4, 8].first { $0 >= sequences }! }
        let step = sequences <= 64 ? 16 : 64
        return (sequences + step - 1) / step * step
    }

    /// Goes on with sequences whose tokens but the last are in their pages: `rows` with one token each, which the next
    /// ``advance(steps:logits:)`` takes.
    public func load(_ rows: [Row]) throws {
        try check(rows)
        if let wrong = rows.first(where: { $0.tokens.count != 1 }) {
            throw GPUDecoderError.limit(name: "tokens a sequence in a step", found: wrong.tokens.count, limit: 1)
        }
        try batch.withLock { batch in
            try memory.write(rows, tokens: rows.map { $0.tokens[0] }, lengths: rows.map { Int32($0.cached + 1) })
            batch.lengths = rows.map { $0.cached + 1 }
            batch.rooms = rows.map { min(limits.tokens, $0.pages.count * Self.pageSize) }
        }
    }

    /// Replaces the tokens that the next step takes, one for each sequence.
    public func replaceTokens(_ tokens: [Int32]) throws {
        try batch.withLock { batch in
            precondition(tokens.count == batch.lengths.count, "a token for each of \(batch.lengths.count) sequences")
            let staged = try stream.upload(tokens)
            try stream.copy(tokens.count * 4, from: staged, at: 0, to: memory.control, at: memory.tokensOffset)
        }
    }

    /// Runs steps one after the other: each appends the token chosen last to every sequence and chooses the next.
    /// - Parameters:
    ///   - logits: whether those of the last step are kept.
    ///   - logProbabilities: whether those of the chosen tokens are kept, of every step, for ``chosen(_:)``.
    /// - Throws: ``GPUDecoderError/limit(name:found:limit:)`` where a sequence's pages would not hold its tokens.
    public func advance(steps: Int = 1, logits: Bool = false, logProbabilities: Bool = false) throws {
        try batch.withLock { batch in
            guard !batch.lengths.isEmpty else { return }
            // The last step appends the token at `length + steps - 1`.
            for (length, room) in zip(batch.lengths, batch.rooms) where length + steps - 1 > room {
                throw GPUDecoderError.limit(
                    name: "tokens in the pages of a sequence", found: length + steps - 1, limit: room)
            }
            let sequences = Self.bucket(batch.lengths.count)
            for step in 0..<steps {
                let longest = (batch.lengths.max() ?? 0) + step
                let key = GraphKey(
                    sequences: sequences, isSplit: isSplit(sequences: sequences, longest: longest),
                    givesLogits: logits && step == steps - 1 || logProbabilities, ratesTokens: logProbabilities)
                try graph(key, &batch).launch(on: stream)
            }
            for index in batch.lengths.indices { batch.lengths[index] += steps }
        }
    }

    /// Whether attention is cut over the GPU, instead of a block for each group of a sequence.
    private func isSplit(sequences: Int, longest: Int) -> Bool {
        guard case .grouped(let attention) = attention, GPUGroupedAttention.hasStep(shape.format.geometry) else {
            return true
        }
        guard configuration.windows.allSatisfy({ $0 == nil }) else { return false }
        return longest > attention.stepLimit(batch: sequences)
    }

    private func graph(_ key: GraphKey, _ batch: inout Batch) throws -> CUDAGraph {
        if let graph = batch.graphs[key] { return graph }
        // Whatever kernels load or compile happens outside of the recording.
        try prepareKernels(key)
        let graph = try CUDAGraph(recording: stream) { try queueStep(key) }
        batch.graphs[key] = graph
        return graph
    }

    private func prepareKernels(_ key: GraphKey) throws {
        // Products of a new number of rows are compiled side by side; what fails shows below.
        let (products, ofHeads) = (products(rows: key.sequences), headProducts(rows: key.sequences))
        CPUBackend.shared.concurrently(products.count + ofHeads.count) { index in
            _ =
                try? index < products.count
                ? loadedProducts.kernel(products[index]) : loadedProducts.kernel(ofHeads[index - products.count])
        }
        if key.givesLogits { _ = try memory.logits() }
        if key.ratesTokens { _ = try memory.logProbabilities() }
        // A step over no sequences: lengths of 0 leave cache, tokens and lengths as they are.
        let lengths = try CUDABuffer(byteCount: key.sequences * 4, stream: stream)
        try stream.fill(lengths, with: 0)
        try queueStep(key, lengths: lengths.address)
    }

    // MARK: A step

    /// The products of a step.
    private func products(rows: Int) -> [CUDARowProduct] {
        let parts = squareParts(rows: rows)
        var products: Set = [product(weights.head, rows, .choose, parts: parts)]
        for layer in weights.layers {
            for weight in layer.projection { products.insert(product(weight, rows, .store, parts: parts)) }
            products.insert(product(layer.output, rows, halfEpilogue))
            if let feedForward = layer.feedForward {
                products.insert(product(feedForward.gateUp, rows, .swiglu, parts: parts))
                products.insert(product(feedForward.down, rows, halfEpilogue))
            }
            if hasQueryProduct, let up = layer.latent?.queryUp { products.insert(product(up, rows, .store)) }
        }
        return Array(products.union(expertProducts(rows: rows, squareParts: parts)))
    }

    /// Parts in which the sums of squares of a step's rows are kept.
    func squareParts(rows: Int) -> Int {
        ranks?.squareParts ?? product(weights.layers[0].output, rows, .add).squareParts
    }

    /// What becomes of the products that end the halves of a layer: a rank's are parts of a sum.
    private var halfEpilogue: CUDARowProduct.Epilogue { ranks == nil ? .add : .store }

    /// Whether one query latent meets its projection to queries in a product of its own.
    private var hasQueryProduct: Bool { if case .latents(1, _) = shape.queries { true } else { false } }

    private func product(
        _ weight: CUDAWeight, _ rows: Int, _ epilogue: CUDARowProduct.Epilogue, parts: Int = 0
    ) -> CUDARowProduct {
        CUDARowProduct(
            width: weight.width, outputs: weight.rows, rows: rows, epilogue: epilogue, inputParts: parts,
            format: weight.format, multiprocessors: stream.device.multiprocessorCount)
    }

    private func multiply(_ product: CUDARowProduct, _ operands: CUDARowProduct.Operands) throws {
        try product.launch(loadedProducts.kernel(product), operands, on: stream)
    }

    /// Queues a step. `lengths`: another place than the state's.
    private func queueStep(_ key: GraphKey, lengths: UInt64? = nil) throws {
        let rows = key.sequences
        let lengths = lengths ?? memory.lengths
        let parts = squareParts(rows: rows)
        try embed(tokens: memory.tokens, rows: rows, squareParts: parts)
        if key.isSplit { try splitAttention.schedule(lengths: lengths, batch: rows, on: stream) }
        for layer in 0..<shape.layers {
            try queueAttention(layer, rows: rows, squareParts: parts, lengths: lengths, isSplit: key.isSplit)
            try queueFeedForward(layer, rows: rows, squareParts: parts, lengths: lengths)
        }
        try choose(
            rows: rows, x: memory.normed.address, squares: memory.squares.address, lengths: lengths,
            givesLogits: key.givesLogits)
        if key.ratesTokens {
            try joinLogits(rows: rows)
            try rate(rows: rows, lengths: lengths)
        }
    }

    /// Log-probabilities of the tokens that ``choose(rows:x:squares:lengths:givesLogits:)`` has chosen, from the
    /// logits that it has kept.
    func rate(rows: Int, lengths: UInt64) throws {
        try kernels.rate.launch(
            grid: CUDAExtent(rows), block: 1024, attributes: [.overlapsPredecessor], on: stream,
            .buffer(try memory.logits()), .value(memory.tokens), .value(lengths),
            .buffer(try memory.logProbabilities()), .value(Int32(limits.tokens)), .value(Int32(shape.vocabulary)))
    }

    /// The tokens' embeddings into the residual stream, and the first layer's norm begun.
    func embed(tokens: UInt64, rows: Int, squareParts: Int = 1) throws {
        let table = weights.embedding
        let kernel = table.format.isQuantised ? try kernels.quantised.embedding(table.format) : kernels.embed
        try kernel.launch(
            grid: CUDAExtent(rows), block: 256, attributes: [.overlapsPredecessor], on: stream, .value(tokens),
            .buffer(table.buffer), .value(Float(configuration.embeddingScale)),
            .buffer(weights.layers[0].attentionNorm), .buffer(memory.residual), .buffer(memory.normed),
            .buffer(memory.squares), .value(Int32(squareParts)), .value(Int32(shape.width)),
            .value(Int32(shape.vocabulary)))
    }

    private func queueAttention(
        _ index: Int, rows: Int, squareParts: Int, lengths: UInt64, isSplit: Bool
    ) throws {
        let layer = weights.layers[index]
        var first = 0
        for weight in layer.projection {
            var operands = CUDARowProduct.Operands(x: memory.normed.address, weight: weight.address, rows: rows)
            operands.bias = layer.projectionBias.map { $0.address + UInt64(first * 4) } ?? 0
            operands.squares = memory.squares.address
            operands.epsilon = Float(configuration.normEpsilon)
            operands.out = memory.projected.address + UInt64(first * 2)
            operands.stride = Int32(shape.projected)
            try multiply(product(weight, rows, .store, parts: squareParts), operands)
            first += weight.rows
        }

        let pages = pages(layer: index)
        guard case .grouped(let attention) = attention else {
            let attended = try queueShared(
                layer: index, rows: rows, at: .lengths(lengths),
                queryUp: { weight, bias in
                    guard hasQueryProduct else { return }
                    var operands = CUDARowProduct.Operands(
                        x: memory.queryLatents.address, weight: weight.address, rows: rows)
                    operands.bias = bias?.address ?? 0
                    operands.out = memory.latentQueries.address
                    try multiply(product(weight, rows, .store), operands)
                },
                attend: { try splitAttention.run(attentionLayer(pages), overlapping: true, on: stream) })
            return try addAttended(attended, layer, rows: rows)
        }
        let heads = heads(layer: index, withBias: false)
        if isSplit {
            try attention.append(
                qkv: memory.projected.address, query: memory.queries.address, tokens: rows, at: .lengths(lengths),
                heads: heads, pages: pages, on: stream)
            try splitAttention.run(attentionLayer(pages), overlapping: true, on: stream)
        } else {
            try attention.step(
                qkv: memory.projected.address, output: memory.attended.address, batch: rows, lengths: lengths,
                window: configuration.windows[index], heads: heads, pages: pages, on: stream)
        }
        try addAttended(memory.attended, layer, rows: rows)
    }

    private func addAttended(_ attended: CUDABuffer, _ layer: GPUDecoderWeights.Layer, rows: Int) throws {
        try add(
            .attention, attended.address, layer.output, bias: layer.outputBias, rows: rows,
            nextNorm: layer.feedForwardNorm)
    }

    private func queueFeedForward(_ index: Int, rows: Int, squareParts: Int, lengths: UInt64) throws {
        let layer = weights.layers[index]
        let next = index + 1 < shape.layers ? weights.layers[index + 1].attentionNorm : weights.finalNorm
        if let experts = layer.experts {
            return try queueExperts(
                experts, shared: layer.feedForward, rows: rows, squareParts: squareParts, lengths: lengths,
                nextNorm: next)
        }
        guard let feedForward = layer.feedForward else { return }
        try queueGateUp(feedForward, rows: rows, squareParts: squareParts)
        try add(
            .feedForward, memory.inner.address, feedForward.down, bias: feedForward.downBias, rows: rows,
            nextNorm: next)
    }

    /// What is between a feed-forward's products.
    func queueGateUp(_ feedForward: GPUDecoderWeights.FeedForward, rows: Int, squareParts: Int) throws {
        let weight = feedForward.gateUp
        var operands = CUDARowProduct.Operands(x: memory.normed.address, weight: weight.address, rows: rows)
        operands.bias = feedForward.gateUpBias?.address ?? 0
        operands.squares = memory.squares.address
        operands.epsilon = Float(configuration.normEpsilon)
        operands.out = memory.inner.address
        try multiply(product(weight, rows, .swiglu, parts: squareParts), operands)
    }

    /// Adds a product to the residual stream, and begins the next norm.
    func add(
        _ half: GPUDecoderRanks.Half, _ x: UInt64, _ weight: CUDAWeight, bias: CUDABuffer?, rows: Int,
        nextNorm: CUDABuffer
    ) throws {
        var operands = CUDARowProduct.Operands(x: x, weight: weight.address, rows: rows)
        operands.bias = bias?.address ?? 0
        if let ranks {
            operands.out = ranks.part(of: half)
            try multiply(product(weight, rows, halfEpilogue), operands)
            return try ranks.addSum(of: half, rows: rows, to: memory, nextNorm: nextNorm)
        }
        operands.sums = memory.residual.address
        operands.out = memory.normed.address
        operands.nextWeight = nextNorm.address
        operands.nextSquares = memory.squares.address
        try multiply(product(weight, rows, halfEpilogue), operands)
    }

    /// The head's products of `rows` normed rows, and the tokens chosen of them, into the state.
    func choose(
        rows: Int, x: UInt64, squares: UInt64, lengths: UInt64, givesLogits: Bool
    ) throws {
        let head = product(weights.head, rows, .choose, parts: squareParts(rows: rows))
        precondition(head.candidates <= GPUDecoderMemory.candidates, "\(head.candidates) candidates a row")
        var operands = CUDARowProduct.Operands(x: x, weight: weights.head.address, rows: rows)
        operands.squares = squares
        operands.epsilon = Float(configuration.normEpsilon)
        operands.sums = givesLogits ? try (ranks?.logits() ?? memory.logits()).address : 0
        operands.firstToken = Int32(shape.headTokens.lowerBound)
        operands.temperatures = memory.temperatures
        operands.seeds = memory.seeds
        operands.positions = lengths
        operands.best = memory.best.address
        operands.bestIndex = memory.bestIndex.address
        try multiply(head, operands)
        if let ranks {
            return try ranks.choose(
                rows: rows, candidates: head.candidates, memory: memory, lengths: lengths, stride: limits.tokens)
        }
        try kernels.choose.launch(
            grid: CUDAExtent((rows + 7) / 8), block: 256, attributes: [.overlapsPredecessor], on: stream,
            .buffer(memory.best), .buffer(memory.bestIndex), .value(Int32(head.candidates)), .value(memory.tokens),
            .value(lengths), .buffer(memory.history), .value(Int32(limits.tokens)), .value(Int32(rows)))
    }
}
