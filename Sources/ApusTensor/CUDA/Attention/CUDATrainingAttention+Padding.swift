/// Heads of widths that the kernels have no tiles for, or that lie where the copy engine does not reach: copied into wider
/// ones that are filled up with zeros, which change neither scores nor values.
extension CUDATrainingAttention {
    /// Operands in memory of their own.
    private struct Padded {
        var operands: CUDAAttentionOperands
        /// What they lie in.
        var memory: CUDABuffer
    }

    /// Widths to copy into; nil where the operands can be read as they lie, or no widths suffice.
    private func paddedWidths(_ operands: CUDAAttentionOperands) -> (key: Int, once: Int, value: Int)? {
        let (key, once, value) = (operands.key.width, operands.keyOnce?.width ?? 0, operands.value.width)
        guard let padded = TrainingAttentionSettings.padded(key: key, once: once, value: value) else { return nil }
        let views = [operands.query, operands.key, operands.value] + (operands.keyOnce.map { [$0] } ?? [])
        let isReachable = views.allSatisfy {
            $0.array.address % 16 == 0 && $0.headStride % 8 == 0 && $0.tokenStride % 8 == 0
        }
        return padded == (key, once, value) && isReachable ? nil : padded
    }

    /// As ``forward(_:_:output:logSumExp:)``, for heads of any width up to the widest.
    package func forwardPadding(
        _ operands: CUDAAttentionOperands, _ parameters: SequenceAttention, output: CUDAArray, logSumExp: UInt64,
        on operations: CUDAOperations
    ) throws {
        guard let widths = paddedWidths(operands) else {
            return try forward(operands, parameters, output: output, logSumExp: logSumExp)
        }
        let tokens = parameters.starts.last ?? 0
        let padded = try padded(operands, widths, tokens, .bf16, on: operations)
        try copy(operands, into: padded.operands, tokens, on: operations)
        let (heads, width) = (operands.query.heads, operands.value.width)
        let rows = try wideRows(heads, widths.value, tokens, output.dtype, on: operations)
        try forward(padded.operands, parameters, output: rows.heads.array, logSumExp: logSumExp)
        try operations.copyHeads(
            part(rows.heads, 0..<width), to: compact(output, heads, width), tokens: tokens)
        withExtendedLifetime((padded, rows)) {}
    }

    /// As ``backward(_:_:output:logSumExp:gradient:into:adds:)``, for heads of any width up to the widest.
    package func backwardPadding(
        _ operands: CUDAAttentionOperands, _ parameters: SequenceAttention, output: CUDAArray, logSumExp: UInt64,
        gradient: UInt64, into targets: CUDAAttentionOperands, adds: Bool, on operations: CUDAOperations
    ) throws {
        guard let widths = paddedWidths(operands) else {
            return try backward(
                operands, parameters, output: output, logSumExp: logSumExp, gradient: gradient, into: targets,
                adds: adds)
        }
        let tokens = parameters.starts.last ?? 0
        let padded = try padded(operands, widths, tokens, .bf16, on: operations)
        try copy(operands, into: padded.operands, tokens, on: operations)
        let (heads, width) = (operands.query.heads, operands.value.width)
        func wide(_ rows: CUDAArray) throws -> (heads: CUDAHeads, memory: CUDABuffer) {
            let result = try wideRows(heads, widths.value, tokens, rows.dtype, on: operations)
            try operations.copyHeads(
                compact(rows, heads, width), to: part(result.heads, 0..<width), tokens: tokens)
            return result
        }
        let (wideOutput, wideGradient) = (try wide(output), try wide(CUDAArray(gradient, .bf16)))
        let gradients = try self.padded(operands, widths, tokens, targets.query.array.dtype, on: operations)
        try backward(
            padded.operands, parameters, output: wideOutput.heads.array, logSumExp: logSumExp,
            gradient: wideGradient.heads.array.address, into: gradients.operands, adds: false)
        try copy(gradients.operands, outOf: widths, into: targets, tokens, adds: adds, on: operations)
        withExtendedLifetime((padded, wideOutput, wideGradient, gradients)) {}
    }

    private func compact(_ array: CUDAArray, _ heads: Int, _ width: Int) -> CUDAHeads {
        CUDAHeads(array, heads: heads, width: width, tokenStride: heads * width, headStride: width)
    }

    private func part(_ heads: CUDAHeads, _ columns: Range<Int>) -> CUDAHeads {
        var result = heads
        result.array = heads.array.advanced(by: columns.lowerBound)
        result.width = columns.count
        return result
    }

    private func wideRows(
        _ heads: Int, _ width: Int, _ tokens: Int, _ dtype: DType, on operations: CUDAOperations
    ) throws -> (heads: CUDAHeads, memory: CUDABuffer) {
        let memory = try operations.scratch(byteCount: tokens * heads * width * dtype.bytesPerBlock)
        try operations.zero(byteCount: memory.byteCount, at: memory.address)
        return (compact(CUDAArray(memory.address, dtype), heads, width), memory)
    }

    /// Zeros for queries, keys, keys kept once and values, side by side.
    private func padded(
        _ operands: CUDAAttentionOperands, _ widths: (key: Int, once: Int, value: Int), _ tokens: Int, _ dtype: DType,
        on operations: CUDAOperations
    ) throws -> Padded {
        let (queryHeads, kvHeads) = (operands.query.heads, operands.key.heads)
        let columns = [
            queryHeads * (widths.key + widths.once), kvHeads * widths.key, widths.once, kvHeads * widths.value,
        ]
        let stride = columns.reduce(0, +)
        let memory = try operations.scratch(byteCount: tokens * stride * dtype.bytesPerBlock)
        try operations.zero(byteCount: memory.byteCount, at: memory.address)
        let array = CUDAArray(memory.address, dtype)
        func heads(_ index: Int, _ count: Int, _ width: Int) -> CUDAHeads {
            CUDAHeads(
                array.advanced(by: columns[..<index].reduce(0, +)), heads: count, width: width, tokenStride: stride,
                headStride: width)
        }
        return Padded(
            operands: CUDAAttentionOperands(
                query: heads(0, queryHeads, widths.key + widths.once), key: heads(1, kvHeads, widths.key),
                keyOnce: operands.keyOnce == nil ? nil : heads(2, 1, widths.once),
                value: heads(3, kvHeads, widths.value)), memory: memory)
    }

    /// A query's own part and the one that meets the key kept once each begin where the wider parts do.
    private func copy(
        _ operands: CUDAAttentionOperands, into wide: CUDAAttentionOperands, _ tokens: Int,
        on operations: CUDAOperations
    ) throws {
        let (key, value) = (operands.key.width, operands.value.width)
        try operations.copyHeads(
            part(operands.query, 0..<key), to: part(wide.query, 0..<key), tokens: tokens)
        try operations.copyHeads(operands.key, to: part(wide.key, 0..<key), tokens: tokens)
        try operations.copyHeads(operands.value, to: part(wide.value, 0..<value), tokens: tokens)
        guard let once = operands.keyOnce, let wideOnce = wide.keyOnce else { return }
        try operations.copyHeads(once, to: part(wideOnce, 0..<once.width), tokens: tokens)
        try operations.copyHeads(
            part(operands.query, key..<key + once.width),
            to: part(wide.query, wide.key.width..<wide.key.width + once.width), tokens: tokens)
    }

    /// The gradients of the narrow operands out of those of the wide ones.
    private func copy(
        _ wide: CUDAAttentionOperands, outOf widths: (key: Int, once: Int, value: Int),
        into targets: CUDAAttentionOperands, _ tokens: Int, adds: Bool, on operations: CUDAOperations
    ) throws {
        let (key, value) = (targets.key.width, targets.value.width)
        func copy(_ from: CUDAHeads, _ columns: Range<Int>, _ to: CUDAHeads) throws {
            try operations.copyHeads(part(from, columns), to: to, tokens: tokens, adds: adds)
        }
        try copy(wide.query, 0..<key, part(targets.query, 0..<key))
        try copy(wide.key, 0..<key, targets.key)
        try copy(wide.value, 0..<value, targets.value)
        guard let once = targets.keyOnce, let wideOnce = wide.keyOnce else { return }
        try copy(wideOnce, 0..<once.width, once)
        try copy(
            wide.query, widths.key..<widths.key + once.width, part(targets.query, key..<key + once.width))
    }
}
