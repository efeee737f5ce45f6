// Norms, rows of tables, cross-entropy and sums.
extension CUDAOperations {
    /// Threads of a row of a norm, and the shared memory of a block with `rows` rows of floats a group.
    private func normGroup(width: Int, rows: Int) throws -> (threads: Int, sharedMemory: Int) {
        let pitch = (width + 3) / 4 * 4 * 4 * rows
        // A warp a row as long as three blocks of eight rows fit a multiprocessor.
        if 8 * pitch <= 74 << 10 { return (32, 8 * pitch) }
        guard pitch <= device.sharedMemoryPerBlock - 1024 else {
            throw CUDAError.launch(kernel: "norm", problem: "rows of \(width) elements do not fit shared memory")
        }
        return (256, pitch)
    }

    /// Parts of 128 elements of rows that a warp keeps in registers (norm_registers.cu); nil where it cannot.
    private func registerParts(width: Int, rows: Int, addresses: [UInt64]) -> Int? {
        guard width % 4 == 0, width <= 1024, rows * width < 1 << 32, addresses.allSatisfy({ $0 % 16 == 0 }) else {
            return nil
        }
        return (width + 127) / 128
    }

    /// RMSNorm of x, or of `sum = x + addend`; x may lie at strides, and a token may have several groups of rows with a
    /// weight each.
    ///
    /// - Parameters:
    ///   - x: float32 or bf16 [rows, width]; bf16 rows have no addend.
    ///   - addend: where `x` is float32.
    ///   - sum: float32; written where there is an addend (it may be `x`).
    ///   - weight: float32 [groups, width].
    ///   - inverses: float32 [rows], written where given.
    ///   - strides: elements from token to token and from group to group of `x`; nil for rows side by side.
    package func rmsNorm(
        _ x: CUDAArray, adding addend: CUDAArray? = nil, sum: UInt64 = 0, weight: UInt64, epsilon: Float,
        to result: CUDAArray, inverses: UInt64 = 0, rows: Int, width: Int, groups: Int = 1,
        strides: (token: Int, group: Int)? = nil
    ) throws {
        guard rows > 0 else { return }
        let addendType = x.dtype == .bf16 ? .bf16 : addend?.dtype ?? .f32
        let isDense = groups == 1 && (strides == nil || strides!.token == width)
        if x.dtype == .f32, isDense,
            let parts = registerParts(
                width: width, rows: rows,
                addresses: [x.address, addend?.address ?? 0, sum, weight, result.address])
        {
            let name = "rms_norm_forward_registers_\(addendType)_\(result.dtype)"
            let arguments: [CUDAArgument] = [
                .value(x.address), .value(addend?.address ?? 0), .value(sum), .value(weight), .value(epsilon),
                .value(result.address), .value(inverses), .value(Int32(rows)), .value(Int32(width)),
            ]
            return try kernel(name, of: "norm_registers.cu", variant: ("PARTS", parts)).launch(
                grid: CUDAExtent(min((rows + 7) / 8, 16 * device.multiprocessorCount)),
                block: CUDAExtent(Self.threads), attributes: [.overlapsPredecessor], on: stream, arguments: arguments)
        }
        let (group, shared) = try normGroup(width: width, rows: 1)
        let perBlock = Self.threads / group
        try kernel("rms_norm_forward_\(group)_\(x.dtype)_\(addendType)_\(result.dtype)", of: "norm.cu").launch(
            grid: CUDAExtent(min((rows + perBlock - 1) / perBlock, 16 * device.multiprocessorCount)),
            block: CUDAExtent(Self.threads), sharedMemory: shared, on: stream, .value(x.address),
            .value(addend?.address ?? 0), .value(sum), .value(weight), .value(epsilon), .value(result.address),
            .value(inverses), .value(Int32(rows)), .value(Int32(width)), .value(Int32(groups)),
            .value(Int64(strides?.token ?? groups * width)), .value(Int64(strides?.group ?? width)))
    }

    /// `result = base + dx`, in bf16 too where `narrow` is given; `weightGradient = dw`, or `+= dw`.
    /// - Parameters:
    ///   - base: float32, or nil; it may be `result`.
    ///   - weightGradient: float32 [width], or nil where nobody asks.
    package func rmsNormBackward(
        _ x: CUDAArray, weight: UInt64, inverses: UInt64, gradient: CUDAArray, base: UInt64?, to result: UInt64,
        narrow: UInt64?, weightGradient: UInt64?, adds: Bool, rows: Int, width: Int
    ) throws {
        guard rows > 0 else { return }
        var parts: Int?
        if x.dtype == .f32 {
            parts = registerParts(
                width: width, rows: rows,
                addresses: [x.address, weight, gradient.address, base ?? 0, result, narrow ?? 0])
        }
        let (group, shared) = parts == nil ? try normGroup(width: width, rows: 3) : (32, 0)
        let perBlock = Self.threads / group
        // A fixed division of the rows, whatever the GPU.
        let chunk = max((rows + 511) / 512, perBlock)
        let blocks = (rows + chunk - 1) / chunk
        let partials = try weightGradient.map { _ in try scratch(byteCount: blocks * width * 4) }
        let function: CUDAKernel
        if let parts {
            let name = "rms_norm_backward_registers_\(gradient.dtype)"
            function = try kernel(name, of: "norm_registers.cu", variant: ("PARTS", parts))
        } else {
            function = try kernel("rms_norm_backward_\(group)_\(x.dtype)_\(gradient.dtype)", of: "norm.cu")
        }
        let arguments: [CUDAArgument] = [
            .value(x.address), .value(weight), .value(inverses), .value(gradient.address), .value(base ?? 0),
            .value(result), .value(narrow ?? 0), .value(partials?.address ?? 0), .value(Int32(rows)),
            .value(Int32(width)), .value(Int32(chunk)),
        ]
        try function.launch(
            grid: CUDAExtent(blocks), block: CUDAExtent(Self.threads), sharedMemory: shared,
            attributes: parts == nil ? [] : [.overlapsPredecessor], on: stream, arguments: arguments)
        if let partials, let weightGradient {
            try addPartials(partials.address, to: weightGradient, count: blocks, columns: width, adds: adds)
        }
    }

    /// Layer norm of float32 rows.
    package func layerNorm(
        _ x: UInt64, weight: UInt64, bias: UInt64?, epsilon: Float, to result: UInt64, rows: Int, width: Int
    ) throws {
        guard rows > 0 else { return }
        let pitch = (width + 3) / 4 * 16
        guard pitch <= device.sharedMemoryPerBlock - 1024 else {
            throw CUDAError.launch(kernel: "norm", problem: "rows of \(width) elements do not fit shared memory")
        }
        try kernel("layer_norm", of: "norm.cu").launch(
            grid: CUDAExtent(min(rows, 16 * device.multiprocessorCount)), block: CUDAExtent(Self.threads),
            sharedMemory: pitch, on: stream, .value(x), .value(weight), .value(bias ?? 0), .value(epsilon),
            .value(result), .value(Int32(rows)), .value(Int32(width)))
    }

    /// Rows of a table, by int32 numbers; NaN for a number outside.
    package func gatherRows(
        _ numbers: UInt64, of table: CUDAArray, tableRows: Int, to result: CUDAArray, count: Int, width: Int
    ) throws {
        guard count > 0, width > 0 else { return }
        try kernel("gather_rows_\(table.dtype)_\(result.dtype)", of: "embedding.cu").launch(
            grid: CUDAExtent(min((count + 7) / 8, 16 * device.multiprocessorCount)), block: CUDAExtent(Self.threads),
            on: stream, .value(numbers), .value(table.address), .value(result.address), .value(Int32(count)),
            .value(Int32(width)), .value(Int64(tableRows)))
    }

    /// Places of a row of a table up to which ``addToRows(order:starts:ids:met:few:gradient:table:width:)`` gives it to
    /// single warps.
    package static let fewPlaces = 16

    /// `table[ids[i]] += ` the sum of the gradient's rows `order[starts[i] ..< starts[i + 1]]`; the table float32.
    /// - Parameter few: how many of the `met` rows, the first, have at most ``fewPlaces``.
    package func addToRows(
        order: UInt64, starts: UInt64, ids: UInt64, met: Int, few: Int, gradient: CUDAArray, table: UInt64, width: Int
    ) throws {
        guard met > 0, width > 0 else { return }
        let parts = (width + 127) / 128
        guard met * parts < Int(Int32.max) else {
            throw CUDAError.launch(kernel: "add_to_rows", problem: "\(met * parts) parts")
        }
        if few > 0 {
            try kernel("add_to_rows_few_\(gradient.dtype)", of: "embedding.cu").launch(
                grid: CUDAExtent(min((few * parts + 7) / 8, 16 * device.multiprocessorCount)),
                block: CUDAExtent(Self.threads), on: stream, .value(order), .value(starts), .value(ids),
                .value(gradient.address), .value(table), .value(Int32(few)), .value(Int32(width)))
        }
        if few < met {
            let skipped = UInt64(4 * few)
            try kernel("add_to_rows_\(gradient.dtype)", of: "embedding.cu").launch(
                grid: CUDAExtent(met - few, parts), block: CUDAExtent(Self.threads), on: stream, .value(order),
                .value(starts + skipped), .value(ids + skipped), .value(gradient.address), .value(table),
                .value(Int32(width)))
        }
    }

    /// Log-probabilities (float32) of int32 targets, and the gradient of -scale x log-probability where it is asked for; it
    /// may lie where the logits are.
    package func crossEntropy(
        _ logits: CUDAArray, targets: UInt64, scales: UInt64, gradient: CUDAArray?, logProbabilities: UInt64,
        rows: Int, width: Int
    ) throws {
        guard rows > 0 else { return }
        let type = gradient?.dtype ?? logits.dtype
        let pitch = (2 * width + 127) / 128 * 128
        let isAligned = logits.address % 16 == 0 && (gradient?.address ?? 0) % 16 == 0 && width % 8 == 0
        if logits.dtype == .bf16, type == .bf16, isAligned, 2 * pitch <= device.sharedMemoryPerBlock - 1024 {
            return try kernel("cross_entropy_ahead", of: "cross_entropy_ahead.cu").launch(
                grid: CUDAExtent(min(rows, device.multiprocessorCount)), block: 1024, sharedMemory: 2 * pitch,
                attributes: [.overlapsPredecessor], on: stream, .value(logits.address), .value(targets),
                .value(scales), .value(gradient?.address ?? 0), .value(logProbabilities), .value(Int32(rows)),
                .value(Int32(width)))
        }
        // Rows stay in shared memory between the two passes where those of two blocks fit a multiprocessor.
        let bytes = (width * logits.dtype.bytesPerBlock + 31) / 32 * 32
        let isKept = gradient != nil && bytes <= 110 << 10
        try kernel("cross_entropy_\(logits.dtype)_\(type)", of: "cross_entropy.cu").launch(
            grid: CUDAExtent(rows), block: 512, sharedMemory: isKept ? bytes : 0, on: stream, .value(logits.address),
            .value(targets), .value(scales), .value(gradient?.address ?? 0), .value(logProbabilities),
            .value(Int32(rows)), .value(Int32(width)), .value(Int32(isKept ? 1 : 0)))
    }

    /// The first kernel of sharded_cross_entropy.cu: rows 0 and 1 of `statistics` [4, rows] get each row's largest logit, row 2
    /// the sum of exponentials.
    package func shardStatistics(_ logits: CUDAArray, targets: UInt64, statistics: UInt64, rows: Int, width: Int) throws
    {
        try kernel("shard_statistics_\(logits.dtype)", of: "sharded_cross_entropy.cu").launch(
            grid: CUDAExtent(rows), block: 512, on: stream, .value(logits.address), .value(targets),
            .value(statistics), .value(statistics + UInt64(4 * rows)), .value(statistics + UInt64(8 * rows)),
            .value(Int32(rows)), .value(Int32(width)))
    }

    /// The second: row 1 has the largest logits of all ranks; row 2 gets the sums beside them, row 3 the targets' logits.
    package func mergeShardStatistics(
        _ logits: CUDAArray, targets: UInt64, statistics: UInt64, rows: Int, width: Int
    ) throws {
        try kernel("shard_merge_\(logits.dtype)", of: "sharded_cross_entropy.cu").launch(
            grid: CUDAExtent((rows + 255) / 256), block: 256, on: stream, .value(logits.address), .value(targets),
            .value(statistics), .value(statistics + UInt64(4 * rows)), .value(statistics + UInt64(8 * rows)),
            .value(statistics + UInt64(12 * rows)), .value(Int32(rows)), .value(Int32(width)))
    }

    /// The third: rows 1 to 3 are those of all ranks.
    package func shardGradient(
        _ logits: CUDAArray, targets: UInt64, scales: UInt64, statistics: UInt64, gradient: CUDAArray?,
        logProbabilities: UInt64, rows: Int, width: Int
    ) throws {
        let type = gradient?.dtype ?? logits.dtype
        try kernel("shard_gradient_\(logits.dtype)_\(type)", of: "sharded_cross_entropy.cu").launch(
            grid: CUDAExtent(rows), block: 512, on: stream, .value(logits.address), .value(targets), .value(scales),
            .value(statistics + UInt64(4 * rows)), .value(statistics + UInt64(8 * rows)),
            .value(statistics + UInt64(12 * rows)), .value(gradient?.address ?? 0), .value(logProbabilities),
            .value(Int32(rows)), .value(Int32(width)))
    }

    /// `sums = ` or `+= ` the sums of columns of a matrix whose rows are `stride` elements apart; float32.
    package func columnSums(
        _ x: CUDAArray, stride: Int, rows: Int, columns: Int, to sums: UInt64, adds: Bool
    ) throws {
        guard columns > 0 else { return }
        let chunks = max(1, (rows + 255) / 256)
        let partials = try scratch(byteCount: chunks * columns * 4)
        try kernel("column_sums_\(x.dtype)", of: "reductions.cu").launch(
            grid: CUDAExtent((columns + 127) / 128, chunks), block: CUDAExtent(Self.threads), on: stream,
            .value(x.address), .value(Int32(rows)), .value(Int32(columns)), .value(Int64(stride)),
            .value(partials.address))
        try addPartials(partials.address, to: sums, count: chunks, columns: columns, adds: adds)
    }

    private func addPartials(_ partials: UInt64, to sums: UInt64, count: Int, columns: Int, adds: Bool) throws {
        try kernel("add_partials", of: "reductions.cu").launch(
            grid: CUDAExtent((columns + 31) / 32), block: 1024, attributes: [.overlapsPredecessor], on: stream,
            .value(partials), .value(sums), .value(Int32(count)), .value(Int32(columns)), .value(Int32(adds ? 1 : 0)))
    }

    /// `result = factor x` the sum of a[i] b[i] over float32 numbers (of a[i] without `b`), a float32.
    package func weightedSum(_ a: UInt64, _ b: UInt64?, factor: Float, count: Int, to result: UInt64) throws {
        try kernel("weighted_sum", of: "reductions.cu").launch(
            grid: 1, block: CUDAExtent(Self.threads), on: stream, .value(a), .value(b ?? 0), .value(factor),
            .value(Int32(count)), .value(result))
    }
}
