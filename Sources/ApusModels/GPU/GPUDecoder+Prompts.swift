import ApusAttention
import ApusTensor

/// Prompts: new tokens of several sequences at a time, in chunks.
extension GPUDecoder {
    /// New tokens of one sequence in a chunk.
    package struct Part {
        let row: Int
        let first: Int
        let count: Int

        /// `count` tokens of a row, from its new token `first` on.
        package init(row: Int, first: Int, count: Int) {
            (self.row, self.first, self.count) = (row, first, count)
        }
    }

    /// Appends each row's tokens to its pages and chooses the token after them; afterwards the rows are the batch that
    /// ``advance(steps:logits:)`` goes on with.
    /// - Parameters:
    ///   - logits: whether those after the last tokens are kept.
    ///   - logProbabilities: whether those of the chosen tokens are kept, for ``chosen(_:)``.
    public func start(_ rows: [Row], logits: Bool = false, logProbabilities: Bool = false) throws {
        try check(rows)
        guard !rows.isEmpty else { return }
        try batch.withLock { batch in
            let lengths = rows.map { $0.cached + $0.tokens.count }
            try memory.write(rows, tokens: rows.map(\.tokens[0]), lengths: lengths.map { Int32($0) })
            for chunk in chunks(rows) { try run(chunk, of: rows) }
            try choose(
                rows: rows.count, x: memory.lastRows.address, squares: memory.lastSquares.address,
                lengths: memory.lengths, givesLogits: logits || logProbabilities)
            if logProbabilities {
                try joinLogits(rows: rows.count)
                try rate(rows: rows.count, lengths: memory.lengths)
            }
            batch.lengths = lengths.map { $0 + 1 }
            batch.rooms = rows.map { min(limits.tokens, $0.pages.count * Self.pageSize) }
        }
    }

    /// The rows' tokens in order, cut wherever a chunk is full.
    func chunks(_ rows: [Row]) -> [[Part]] {
        var (chunks, chunk, room): ([[Part]], [Part], Int) = ([], [], limits.chunk)
        for (index, row) in rows.enumerated() {
            var first = 0
            while first < row.tokens.count {
                let count = min(room, row.tokens.count - first)
                chunk.append(Part(row: index, first: first, count: count))
                first += count
                room -= count
                if room == 0 {
                    chunks.append(chunk)
                    (chunk, room) = ([], limits.chunk)
                }
            }
        }
        return chunk.isEmpty ? chunks : chunks + [chunk]
    }

    func run(_ chunk: [Part], of rows: [Row]) throws {
        let starts = chunk.reduce(into: [0]) { $0.append($0.last! + $1.count) }
        let tokens = chunk.flatMap { rows[$0.row].tokens[$0.first..<$0.first + $0.count] }
        let sequences = chunk.flatMap { [Int32](repeating: Int32($0.row), count: $0.count) }
        let cached = chunk.map { rows[$0.row].cached + $0.first }
        let positions = zip(chunk, cached).flatMap { part, before in
            (before..<before + part.count).map { Int32($0) }
        }
        let held = try stream.upload(tokens + sequences + positions)
        let places = GPUGroupedAttention.Places.tokens(
            sequences: held.address + UInt64(tokens.count * 4), positions: held.address + UInt64(tokens.count * 8))
        let plan = try plan(chunk, of: rows, starts: starts, cached: cached, positions: positions)
        try embed(tokens: held.address, rows: tokens.count)
        for layer in 0..<shape.layers {
            try attend(layer, tokens: tokens.count, at: places, plan)
            try feedForward(layer, tokens: tokens.count)
        }
        // Rows that end here become the head's.
        let ending = zip(chunk, starts).filter { $0.0.first + $0.0.count == rows[$0.0.row].tokens.count }
        guard let first = ending.first else { return }
        let last = try stream.upload(ending.map { Int32($0.1 + $0.0.count - 1) })
        try pick(rows: last.address, count: ending.count, into: first.0.row, of: rows.count)
    }

    /// What attention of a chunk reads.
    private enum ChunkPlan {
        /// Prefill attention, by window; the chunk's first sequence in the page table.
        case sequences([Int?: GPUPrefillAttention.Plan], first: Int)
        /// Decode attention, with each token as a sequence of its own and a page table of them.
        case tokens(table: CUDABuffer, stride: Int)
    }

    private func plan(
        _ chunk: [Part], of rows: [Row], starts: [Int], cached: [Int], positions: [Int32]
    ) throws -> ChunkPlan {
        guard let prefill else {
            let (table, stride) = Self.tableOfTokens(chunk, of: rows)
            let lengths = try stream.upload(positions.map { $0 + 1 })
            try splitAttention.schedule(lengths: lengths.address, batch: positions.count, on: stream)
            return .tokens(table: try stream.upload(table), stride: stride)
        }
        var plans: [Int?: GPUPrefillAttention.Plan] = [:]
        for window in Set(configuration.windows) {
            plans[window] = try prefill.plan(starts: starts, cached: cached, window: window, on: stream)
        }
        return .sequences(plans, first: chunk[0].row)
    }

    /// The pages that each token of a chunk sees, `[token][stride]`.
    package static func tableOfTokens(_ chunk: [Part], of rows: [Row]) -> (table: [Int32], stride: Int) {
        func pages(_ part: Part) -> Int { (rows[part.row].cached + part.first + part.count + pageSize - 1) / pageSize }
        let stride = chunk.map(pages).max() ?? 1
        var table: [Int32] = []
        for part in chunk {
            let seen = rows[part.row].pages.prefix(pages(part))
            let row = seen + [Int32](repeating: 0, count: stride - seen.count)
            for _ in 0..<part.count { table += row }
        }
        return (table, stride)
    }

    private func attend(_ index: Int, _ plan: ChunkPlan) throws {
        switch plan {
        case .sequences(let plans, let first):
            guard let plan = plans[configuration.windows[index]] else { return }
            try prefill?.run(plan, attentionLayer(pages(layer: index, firstSequence: first)), on: stream)
        case .tokens(let table, let stride):
            let pages = GPUGroupedAttention.Pages(
                cache: cacheAddress(layer: index), table: table.address, stride: stride)
            try splitAttention.run(attentionLayer(pages), overlapping: true, on: stream)
        }
    }

    /// Rows of the residual stream become those that the head reads, from row `target` of `total` on.
    func pick(rows: UInt64, count: Int, into target: Int, of total: Int) throws {
        let parts = squareParts(rows: total)
        try kernels.pick.launch(
            grid: CUDAExtent(count), block: 256, on: stream, .buffer(memory.residual), .value(rows),
            .buffer(weights.finalNorm), .value(memory.lastRows.address + UInt64(target * shape.width * 2)),
            .value(memory.lastSquares.address + UInt64(target * parts * 4)), .value(Int32(parts)),
            .value(Int32(shape.width)))
    }

    private func attend(
        _ index: Int, tokens: Int, at places: GPUGroupedAttention.Places, _ plan: ChunkPlan
    ) throws {
        let layer = weights.layers[index]
        try norm(layer.attentionNorm, tokens: tokens)
        var first = 0
        for weight in layer.projection {
            try multiply(memory.normed, weight, tokens, into: memory.projected, column: first, of: shape.projected)
            first += weight.rows
        }
        var attended = memory.attended
        switch attention {
        case .grouped(let attention):
            try attention.append(
                qkv: memory.projected.address, query: memory.queries.address, tokens: tokens, at: places,
                heads: heads(layer: index, withBias: true), pages: pages(layer: index), on: stream)
            try attend(index, plan)
        case .shared:
            try addRowBias(layer.projectionBias, to: memory.projected, shape.projected, tokens)
            attended = try queueShared(
                layer: index, rows: tokens, at: places,
                queryUp: { weight, bias in
                    try multiply(memory.queryLatents, weight, tokens, into: memory.latentQueries)
                    try addRowBias(bias, to: memory.latentQueries, shape.latentQueries, tokens)
                }, attend: { try attend(index, plan) })
        }
        try add(attended, layer.output, bias: layer.outputBias, tokens)
    }

    /// Adds a bias, where there is one, to each bf16 row of a product.
    private func addRowBias(_ bias: CUDABuffer?, to rows: CUDABuffer, _ width: Int, _ tokens: Int) throws {
        guard let bias else { return }
        let count = tokens * width
        try loadedProducts.rowBias().launch(
            grid: CUDAExtent(min((count / 8 + 255) / 256, 16 * stream.device.multiprocessorCount)), block: 256,
            on: stream, .buffer(rows), .buffer(bias), .value(Int64(count)), .value(Int32(width)))
    }

    private func feedForward(_ index: Int, tokens: Int) throws {
        let layer = weights.layers[index]
        try norm(layer.feedForwardNorm, tokens: tokens)
        if let feedForward = layer.feedForward {
            let inner = feedForward.down.width
            try multiply(memory.normed, feedForward.gateUp, tokens, into: memory.gateUp)
            let count = tokens * inner
            try kernels.swiglu.launch(
                grid: CUDAExtent(min((count / 8 + 255) / 256, 16 * stream.device.multiprocessorCount)), block: 256,
                on: stream, .buffer(memory.gateUp), .value(feedForward.gateUpBias?.address ?? 0),
                .buffer(memory.inner), .value(Int64(count)), .value(Int32(inner)))
        }
        // The router reads the residual stream as the layer's attention left it.
        if let experts = layer.experts {
            try runExperts(experts, nextNorm: layer.feedForwardNorm, tokens: tokens)
        }
        if let feedForward = layer.feedForward {
            try add(memory.inner, feedForward.down, bias: feedForward.downBias, tokens)
        }
    }

    private func norm(_ weight: CUDABuffer, tokens: Int) throws {
        try operations.rmsNorm(
            CUDAArray(memory.residual.address, .f32), weight: weight.address, epsilon: Float(configuration.normEpsilon),
            to: CUDAArray(memory.normed.address, .bf16), rows: tokens, width: shape.width)
    }

    /// A matrix in bf16: a quantised one is expanded into memory that the next one takes too.
    private func expanded(_ weight: CUDAWeight) throws -> CUDAOperations.Matrix {
        var address = weight.address
        if weight.format.isQuantised {
            address = memory.expanded.address
            try kernels.quantised.expand(weight, to: address, on: stream)
        }
        return CUDAOperations.Matrix(
            CUDAArray(address, .bf16), rows: weight.rows, columns: weight.width, isTransposed: true)
    }

    /// Rows up to which a quantised matrix is multiplied as it lies: to expand it takes as long as some hundred rows do.
    private static let fewRows = 256

    /// The product of few rows with a quantised matrix, for a number of rows that settings are made for; nil for others.
    private func fewRowProduct(
        _ weight: CUDAWeight, _ tokens: Int, _ epilogue: CUDARowProduct.Epilogue
    ) -> CUDARowProduct? {
        guard weight.format.isQuantised, tokens <= Self.fewRows else { return nil }
        return CUDARowProduct(
            width: weight.width, outputs: weight.rows, rows: Self.bucket(tokens), epilogue: epilogue,
            format: weight.format, multiprocessors: stream.device.multiprocessorCount)
    }

    /// Products of rows, to columns from `column` on of rows of `width` (none: of as many as there are).
    private func multiply(
        _ x: CUDABuffer, _ weight: CUDAWeight, _ tokens: Int, into out: CUDABuffer, column: Int = 0,
        of width: Int? = nil
    ) throws {
        if let product = fewRowProduct(weight, tokens, .store) {
            var operands = CUDARowProduct.Operands(x: x.address, weight: weight.address, rows: tokens)
            operands.out = out.address + UInt64(column * 2)
            operands.stride = Int32(width ?? weight.rows)
            return try product.launch(loadedProducts.kernel(product), operands, on: stream)
        }
        try operations.multiply(
            .init(CUDAArray(x.address, .bf16), rows: tokens, columns: weight.width), expanded(weight),
            into: .init(
                CUDAArray(out.address, .bf16).advanced(by: column), rows: tokens, columns: weight.rows, stride: width))
    }

    /// Adds a product to the residual stream.
    private func add(_ x: CUDABuffer, _ weight: CUDAWeight, bias: CUDABuffer?, _ tokens: Int) throws {
        if let ranks {
            try multiply(x, weight, tokens, into: ranks.part)
            if ranks.isFirst { try addRowBias(bias, to: ranks.part, shape.width, tokens) }
            try ranks.sum(rows: tokens)
            return try operations.add(
                CUDAArray(ranks.part.address, .bf16), to: CUDAArray(memory.residual.address, .f32),
                count: tokens * shape.width)
        }
        if let product = fewRowProduct(weight, tokens, .add) {
            var operands = CUDARowProduct.Operands(x: x.address, weight: weight.address, rows: tokens)
            operands.bias = bias?.address ?? 0
            operands.sums = memory.residual.address
            // Prompts begin their norms anew.
            operands.out = memory.normed.address
            operands.nextWeight = weights.finalNorm.address
            operands.nextSquares = memory.squares.address
            return try product.launch(loadedProducts.kernel(product), operands, on: stream)
        }
        try operations.multiply(
            .init(CUDAArray(x.address, .bf16), rows: tokens, columns: weight.width), expanded(weight),
            into: .init(CUDAArray(memory.residual.address, .f32), rows: tokens, columns: shape.width),
            accumulate: true)
        guard let bias else { return }
        let count = tokens * shape.width
        try kernels.addBias.launch(
            grid: CUDAExtent(min((count + 255) / 256, 16 * stream.device.multiprocessorCount)), block: 256, on: stream,
            .buffer(memory.residual), .buffer(bias), .value(Int64(count)), .value(Int32(shape.width)))
    }
}
