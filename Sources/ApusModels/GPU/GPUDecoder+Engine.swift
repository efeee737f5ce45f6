import ApusAttention
import ApusTensor

/// Steps for an engine, which keeps the page tables and draws on the host.
extension GPUDecoder {
    /// Appends each row's tokens to its pages. The hidden states of all tokens stay until the next call that computes.
    /// - Throws: ``GPUDecoderError/limit(name:found:limit:)`` where there are more tokens than a chunk has.
    public func runLayers(_ rows: [Row]) throws {
        try check(rows)
        let tokens = rows.reduce(0) { $0 + $1.tokens.count }
        guard tokens <= limits.chunk else {
            throw GPUDecoderError.limit(name: "tokens a chunk", found: tokens, limit: limits.chunk)
        }
        guard !rows.isEmpty else { return }
        try batch.withLock { batch in
            let lengths = rows.map { $0.cached + $0.tokens.count }
            try memory.write(rows, tokens: rows.map(\.tokens[0]), lengths: lengths.map { Int32($0) })
            for chunk in chunks(rows) { try run(chunk, of: rows) }
            // What follows gives the state anew.
            (batch.lengths, batch.rooms) = ([], [])
        }
    }

    /// Float32 logits `[row][vocabulary]` of rows of the step's hidden states. Waits for them.
    /// - Parameter keeps: false for a rank that only computes its part of them: nothing is given.
    public func logits(ofRows rows: [Int], keeps: Bool = true) throws -> [Float] {
        var result: [Float] = []
        if keeps { result.reserveCapacity(rows.count * shape.vocabulary) }
        for first in stride(from: 0, to: rows.count, by: limits.sequences) {
            let part = rows[first..<min(first + limits.sequences, rows.count)]
            try chooseFrom(part, givesLogits: true)
            try batch.withLock { _ in try joinLogits(rows: part.count) }
            guard keeps else { continue }
            result += try stream.download(try memory.logits(), count: part.count * shape.vocabulary, as: Float.self)
        }
        return result
    }

    /// The likeliest token after each of some rows of the step's hidden states, one of each of its first sequences at most.
    /// Waits for them.
    public func likeliestTokens(ofRows rows: [Int]) throws -> [Int32] {
        try chooseFrom(rows[...], givesLogits: false)
        return try stream.download(memory.control, at: memory.tokensOffset, count: rows.count)
    }

    private func chooseFrom(_ rows: ArraySlice<Int>, givesLogits: Bool) throws {
        try batch.withLock { _ in
            let places = try stream.upload(rows.map { Int32($0) })
            try pick(rows: places.address, count: rows.count, into: 0, of: rows.count)
            try choose(
                rows: rows.count, x: memory.lastRows.address, squares: memory.lastSquares.address,
                lengths: memory.lengths, givesLogits: givesLogits)
        }
    }

    /// Hidden states after the final norm, float32 `[row][width]`, of rows of the step. Waits for them.
    public func normalizedStates(_ rows: Range<Int>) throws -> [Float] {
        let width = shape.width
        // The norm's weight on the GPU has the model's factor on logits.
        let factor = Float(configuration.logitScale)
        let weight: [Float] = try stream.download(weights.finalNorm, count: width).map { $0 / factor }
        var states: [Float] = try stream.download(
            memory.residual, at: rows.lowerBound * width * 4, count: rows.count * width)
        for start in stride(from: 0, to: states.count, by: width) {
            let squares = states[start..<start + width].reduce(0.0) { $0 + Double($1) * Double($1) }
            let inverse = Float(1 / (squares / Double(width) + configuration.normEpsilon).squareRoot())
            for index in 0..<width { states[start + index] *= inverse * weight[index] }
        }
        return states
    }

    /// Copies a page of every layer.
    public func copyPage(from source: Int, to target: Int) throws {
        let bytes = shape.format.pageBytes
        for layer in 0..<shape.layers {
            let first = layer * pageCount
            try stream.copy(
                bytes, from: cache, at: (first + source) * bytes, to: cache, at: (first + target) * bytes)
        }
    }
}
