import CApusKernels

/// Rows [tokens][heads][width] of float32 with gaps between heads and between tokens that nobody may write to.
final class GappedRows {
    static let poison: Float = -12345.5
    let shape: ReferenceRows
    let headStride: Int
    let tokenStride: Int
    let values: UnsafeMutableBufferPointer<Float>

    /// A copy of `rows` with `gap` elements after each head and twice as many after each token.
    init(_ rows: ReferenceRows, gap: Int) {
        shape = rows
        headStride = rows.width + gap
        tokenStride = headStride * rows.heads + 2 * gap
        values = .allocate(capacity: rows.tokens * tokenStride + 1)
        values.initialize(repeating: Self.poison)
        forEachPlace { values[$0] = Float(rows.values[$1]) }
    }

    deinit { values.deallocate() }

    var input: apus_training_input {
        apus_training_input(base: values.baseAddress, token_stride: Int64(tokenStride), head_stride: Int64(headStride))
    }

    func output(accumulate: Bool) -> apus_training_output {
        apus_training_output(
            base: values.baseAddress, token_stride: Int64(tokenStride), head_stride: Int64(headStride),
            accumulate: accumulate ? 1 : 0)
    }

    /// Calls `body` with where an element lies here and where among the reference's.
    private func forEachPlace(_ body: (Int, Int) -> Void) {
        var index = 0
        for token in 0..<shape.tokens {
            for head in 0..<shape.heads {
                for column in 0..<shape.width {
                    body(token * tokenStride + head * headStride + column, index)
                    index += 1
                }
            }
        }
    }

    /// ||found - exact|| / ||exact||, where `floor` per element counts to the norm (some gradients are zero by
    /// construction); not a number when something found is not, infinite when a gap was written to.
    func error(against exact: [Double], floor: Double = 0) -> Double {
        var difference = 0.0
        var norm = 1e-30 + floor * floor * Double(exact.count)
        var gaps = values.count { $0 == Self.poison }
        forEachPlace { place, index in
            let distance = Double(values[place]) - exact[index]
            difference += distance * distance
            norm += exact[index] * exact[index]
            if values[place] == Self.poison { gaps -= 1 }
        }
        return gaps == values.count - exact.count ? (difference / norm).squareRoot() : .infinity
    }

    var bits: [UInt32] { values.map(\.bitPattern) }
}

/// One forward and one backward pass through the kernels.
struct TrainingAttentionCall {
    let output, logSumExp, query, keyOwn, keyOnce, value: GappedRows
    let status: Int32

    /// Gradients are added to `onto` where it is given.
    init(
        _ shape: TrainingShape, _ operands: ReferenceOperands, _ arithmetic: apus_training_arithmetic,
        pool: OpaquePointer, gap: Int = 1, onto: ReferenceOperands? = nil
    ) {
        let inputs = [operands.query, operands.keyOwn, operands.keyOnce, operands.value, operands.outputGradient].map {
            GappedRows($0, gap: gap)
        }
        func target(_ rows: ReferenceRows) -> GappedRows { GappedRows(rows, gap: gap) }
        output = target(operands.outputGradient)
        logSumExp = GappedRows(ReferenceRows(shape.tokens, shape.heads, 1), gap: 0)
        query = target(onto?.query ?? operands.query)
        keyOwn = target(onto?.keyOwn ?? operands.keyOwn)
        keyOnce = target(onto?.keyOnce ?? operands.keyOnce)
        value = target(onto?.value ?? operands.value)
        let adds = onto != nil
        let read = apus_training_operands(
            query: inputs[0].input, key_own: inputs[1].input, key_once: inputs[2].input, value: inputs[3].input)
        let written = apus_training_gradients(
            query: query.output(accumulate: adds), key_own: keyOwn.output(accumulate: adds),
            key_once: keyOnce.output(accumulate: adds), value: value.output(accumulate: adds))
        let results = (output, logSumExp)
        status = shape.starts.map(Int64.init).withUnsafeBufferPointer { starts in
            var sizes = apus_training_attention(
                heads: Int64(shape.heads), kv_heads: Int64(shape.kvHeads), key_own: Int64(shape.keyOwn),
                key_once: Int64(shape.keyOnce), value: Int64(shape.value), sequences: Int64(shape.lengths.count),
                starts: starts.baseAddress, window: Int64(shape.window), scale: Float(shape.scale),
                arithmetic: arithmetic)
            let forward = apus_training_attention_forward(
                pool, &sizes, [read], results.0.output(accumulate: false), results.1.values.baseAddress)
            guard forward == 0 else { return forward }
            return apus_training_attention_backward(
                pool, &sizes, [read], results.0.input, results.1.values.baseAddress, inputs[4].input, [written])
        }
    }

    var bits: [[UInt32]] { [output, logSumExp, query, keyOwn, keyOnce, value].map(\.bits) }
}
