import ApusAttention
import ApusTensor

/// Prompts: new tokens of several sequences at a time, in chunks.
extension GPUDecoder {
    /// New tokens of one sequence in a chunk.
    struct Part {
        let row: Int
        let first: Int
        let count: Int
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
            if logProbabilities { try rate(rows: rows.count, lengths: memory.lengths) }
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
        var plans: [Int?: GPUPrefillAttention.Plan] = [:]
        for window in Set(configuration.windows) {
            plans[window] = try prefill.plan(starts: starts, cached: cached, window: window, on: stream)
        }
        try embed(tokens: held.address, rows: tokens.count)
        for layer in 0..<shape.layers {
            try attend(
                layer, tokens: tokens.count, at: places, plans[configuration.windows[layer]]!,
                firstSequence: chunk[0].row)
            try feedForward(layer, tokens: tokens.count)
        }
        // Rows that end here become the head's.
        let ending = zip(chunk, starts).filter { $0.0.first + $0.0.count == rows[$0.0.row].tokens.count }
        guard let first = ending.first else { return }
        let last = try stream.upload(ending.map { Int32($0.1 + $0.0.count - 1) })
        try pick(rows: last.address, count: ending.count, into: first.0.row, of: rows.count)
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
        _ index: Int, tokens: Int, at places: GPUGroupedAttention.Places, _ plan: GPUPrefillAttention.Plan,
        firstSequence: Int
    ) throws {
        let layer = weights.layers[index]
        try norm(layer.attentionNorm, tokens: tokens)
        try multiply(memory.normed, layer.projection, shape.width, shape.projected, tokens, into: memory.projected)
        try attention.append(
            qkv: memory.projected.address, query: memory.queries.address, tokens: tokens, at: places,
            heads: heads(layer: index, withBias: true), pages: pages(layer: index), on: stream)
        let pages = pages(layer: index, firstSequence: firstSequence)
        try prefill.run(
            plan,
            GPUDecodeAttention.Layer(
                query: memory.queries.address, cache: pages.cache, pageCount: pageCount, pageTable: pages.table,
                pageStride: pages.stride, output: memory.attended.address, logSumExp: memory.logSumExp.address),
            on: stream)
        try add(memory.attended, layer.output, bias: layer.outputBias, shape.attended, tokens)
    }

    private func feedForward(_ index: Int, tokens: Int) throws {
        let layer = weights.layers[index]
        try norm(layer.feedForwardNorm, tokens: tokens)
        try multiply(memory.normed, layer.gateUp, shape.width, 2 * shape.inner, tokens, into: memory.gateUp)
        let count = tokens * shape.inner
        try kernels.swiglu.launch(
            grid: CUDAExtent(min((count / 8 + 255) / 256, 16 * stream.device.multiprocessorCount)), block: 256,
            on: stream, .buffer(memory.gateUp), .value(layer.gateUpBias?.address ?? 0), .buffer(memory.inner),
            .value(Int64(count)), .value(Int32(shape.inner)))
        try add(memory.inner, layer.down, bias: layer.downBias, shape.inner, tokens)
    }

    private func norm(_ weight: CUDABuffer, tokens: Int) throws {
        try operations.rmsNorm(
            CUDAArray(memory.residual.address, .f32), weight: weight.address, epsilon: Float(configuration.normEpsilon),
            to: CUDAArray(memory.normed.address, .bf16), rows: tokens, width: shape.width)
    }

    private func multiply(
        _ x: CUDABuffer, _ weight: CUDABuffer, _ width: Int, _ outputs: Int, _ tokens: Int, into out: CUDABuffer
    ) throws {
        try operations.multiply(
            .init(CUDAArray(x.address, .bf16), rows: tokens, columns: width),
            .init(CUDAArray(weight.address, .bf16), rows: outputs, columns: width, isTransposed: true),
            into: .init(CUDAArray(out.address, .bf16), rows: tokens, columns: outputs))
    }

    /// Adds a product to the residual stream.
    private func add(
        _ x: CUDABuffer, _ weight: CUDABuffer, bias: CUDABuffer?, _ width: Int, _ tokens: Int
    ) throws {
        try operations.multiply(
            .init(CUDAArray(x.address, .bf16), rows: tokens, columns: width),
            .init(CUDAArray(weight.address, .bf16), rows: shape.width, columns: width, isTransposed: true),
            into: .init(CUDAArray(memory.residual.address, .f32), rows: tokens, columns: shape.width),
            accumulate: true)
        guard let bias else { return }
        let count = tokens * shape.width
        try kernels.addBias.launch(
            grid: CUDAExtent(min((count + 255) / 256, 16 * stream.device.multiprocessorCount)), block: 256, on: stream,
            .buffer(memory.residual), .buffer(bias), .value(Int64(count)), .value(Int32(shape.width)))
    }
}
