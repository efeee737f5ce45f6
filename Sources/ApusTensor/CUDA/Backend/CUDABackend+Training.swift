extension CUDABackend: DifferentiableBackend {
    /// The dtype of products.
    public func activationType(compute: DType) -> DType { compute }

    /// A block's logits take at most 512 MB in bf16, and at least 128 rows keep the products efficient.
    public func headRows(vocabulary: Int) -> Int { max(128, (256 << 20) / max(vocabulary, 1) / 128 * 128) }

    /// See ``DifferentiableBackend/multiply(_:_:into:accumulate:)``.
    public func multiply(_ a: MatrixView, _ b: MatrixView, into c: MatrixView, accumulate: Bool) {
        let (m, k) = a.isTransposed ? (a.columns, a.rows) : (a.rows, a.columns)
        let (inner, n) = b.isTransposed ? (b.columns, b.rows) : (b.rows, b.columns)
        precondition(
            inner == k && c.rows == m && c.columns == n && !c.isTransposed, "multiply: [\(m), \(k)] x [\(inner), \(n)]")
        precondition(a.tensor.dtype == b.tensor.dtype, "multiply: dtypes differ")
        perform { try operations.multiply(matrix(a), matrix(b), into: matrix(c), accumulate: accumulate) }
    }

    /// See ``DifferentiableBackend/convert(_:into:)``.
    public func convert(_ x: Tensor, into result: Tensor) {
        precondition(x.shape == result.shape && x.isContiguous && result.isContiguous, "convert: \(x.shape)")
        if x.dtype == result.dtype {
            perform { try copy(x, to: address(result)) }
            return
        }
        let x = onDevice(x)
        perform { try operations.convert(array(x), to: array(result), count: x.count) }
        withExtendedLifetime(x) {}
    }

    /// See ``DifferentiableBackend/rmsNormForward(_:adding:weight:epsilon:output:)``.
    public func rmsNormForward(
        _ x: Tensor, adding addend: Tensor?, weight: Tensor, epsilon: Float, output: DType
    ) -> (sum: Tensor, normalized: Tensor, inverse: Tensor) {
        let (rows, width) = Self.extents(x, "rmsNorm")
        precondition(weight.count == width && (addend == nil || addend!.shape == x.shape), "rmsNorm: \(x.shape)")
        let weight = onDevice(weight)
        // A sum is float32.
        var (x, addend) = (onDevice(x.detached()), addend.map { onDevice($0.detached()) })
        if addend != nil, x.dtype != .f32 { x = converted(x, to: .f32) }
        let sum = addend == nil ? x : makeTensor(x.shape, .f32)
        let normalized = makeTensor(x.shape, output)
        let inverse = makeTensor([rows], .f32)
        perform {
            try operations.rmsNorm(
                array(x), adding: addend.map(array), sum: addend == nil ? 0 : address(sum), weight: address(weight),
                epsilon: epsilon, to: array(normalized), inverses: address(inverse), rows: rows, width: width)
        }
        withExtendedLifetime((x, weight)) {}
        addend = nil
        return (sum, normalized, inverse)
    }

    /// See ``DifferentiableBackend/rmsNormBackward(_:weight:inverse:gradient:base:into:narrow:weightGradient:adds:)``.
    public func rmsNormBackward(
        _ x: Tensor, weight: Tensor, inverse: Tensor, gradient: Tensor, base: Tensor?, into result: Tensor,
        narrow: Tensor?, weightGradient: Tensor?, adds: Bool
    ) {
        let (rows, width) = Self.extents(x, "rmsNormBackward")
        precondition(gradient.count == x.count && result.dtype == .f32, "rmsNormBackward: \(gradient.shape)")
        precondition(base == nil || base!.dtype == .f32 && base!.count == x.count, "rmsNormBackward: base")
        let (x, weight, gradient) = (onDevice(x), onDevice(weight), onDevice(gradient))
        let base = base.map(onDevice)
        perform {
            try operations.rmsNormBackward(
                array(x), weight: address(weight), inverses: address(inverse), gradient: array(gradient),
                base: base.map(address), to: address(result), narrow: narrow.map(address),
                weightGradient: weightGradient.map(address), adds: adds, rows: rows, width: width)
        }
        withExtendedLifetime((x, weight, gradient, base)) {}
    }

    /// See ``DifferentiableBackend/swigluForward(gate:up:output:)``.
    public func swigluForward(gate: MatrixView, up: MatrixView, output: DType) -> Tensor {
        precondition(
            gate.stride == up.stride && gate.rows == up.rows && gate.columns == up.columns,
            "swiglu: \(gate.tensor.shape)")
        let result = makeTensor(Self.shape(gate.tensor, width: gate.columns), output)
        perform {
            let (gate, up) = (try matrix(gate), try matrix(up))
            try operations.swiglu(
                gate: gate.array, up: up.array, stride: gate.stride, to: array(result), rows: gate.rows,
                width: gate.columns)
        }
        return result
    }

    /// See ``DifferentiableBackend/swigluBackward(gate:up:gradient:gateGradient:upGradient:)``.
    public func swigluBackward(
        gate: MatrixView, up: MatrixView, gradient: Tensor, gateGradient: MatrixView, upGradient: MatrixView
    ) {
        precondition(
            gradient.count == gate.rows * gate.columns && gateGradient.stride == upGradient.stride,
            "swigluBackward: \(gradient.shape)")
        let gradient = onDevice(gradient)
        perform {
            let (gate, up) = (try matrix(gate), try matrix(up))
            try operations.swigluBackward(
                gate: gate.array, up: up.array, stride: gate.stride, gradient: array(gradient),
                gateGradient: matrix(gateGradient).array, upGradient: matrix(upGradient).array,
                gradientStride: gateGradient.stride, rows: gate.rows, width: gate.columns)
        }
        withExtendedLifetime(gradient) {}
    }

    /// See ``DifferentiableBackend/embeddingBackward(_:gradient:tableGradient:)``.
    ///
    /// Places are sorted by their row here, so that each row is one block's and its sum has a fixed order.
    public func embeddingBackward(_ tokens: [Int32], gradient: Tensor, tableGradient: Tensor) {
        let (rows, width) = Self.extents(gradient, "embeddingBackward")
        precondition(rows == tokens.count && tableGradient.shape[-1] == width, "embeddingBackward: \(gradient.shape)")
        guard rows > 0 else { return }
        let gradient = onDevice(gradient)
        perform {
            let keys = tokens.enumerated().filter { $0.element >= 0 }
                .map { UInt64(UInt32(bitPattern: $1)) << 32 | UInt64($0) }.sorted()
            guard !keys.isEmpty else { return }
            let groups = keys.indices.filter { $0 == 0 || keys[$0] >> 32 != keys[$0 - 1] >> 32 }
            let ranges = zip(groups, groups.dropFirst() + [keys.count]).map { $0..<$1 }
            let few = ranges.filter { $0.count <= CUDAOperations.fewPlaces }
            let sorted = few + ranges.filter { $0.count > CUDAOperations.fewPlaces }
            let order = sorted.flatMap { range in keys[range].lazy.map { Int32(truncatingIfNeeded: $0) } }
            let starts = sorted.reduce(into: [Int32(0)]) { $0.append($0.last! + Int32($1.count)) }
            let ids = sorted.map { Int32(keys[$0.lowerBound] >> 32) }
            let lists = try stream.upload(order + starts + ids)
            try operations.addToRows(
                order: lists.address, starts: lists.address + UInt64(4 * keys.count),
                ids: lists.address + UInt64(4 * (keys.count + starts.count)), met: ids.count, few: few.count,
                gradient: array(gradient), table: address(tableGradient), width: width)
            withExtendedLifetime(lists) {}
        }
        withExtendedLifetime(gradient) {}
    }

    /// See ``DifferentiableBackend/crossEntropy(_:targets:scale:gradient:logProbabilities:)``.
    public func crossEntropy(
        _ logits: Tensor, targets: Tensor, scale: Tensor, gradient: Tensor?, logProbabilities: Tensor
    ) {
        let (rows, width) = Self.extents(logits, "crossEntropy")
        precondition(
            targets.count == rows && targets.dtype == .i32 && scale.count == rows && logProbabilities.count == rows,
            "crossEntropy: \(targets.count) targets, \(rows) rows")
        let (logits, targets, scale) = (onDevice(logits), onDevice(targets), onDevice(scale))
        perform {
            try operations.crossEntropy(
                array(logits), targets: address(targets), scales: address(scale), gradient: gradient.map(array),
                logProbabilities: address(logProbabilities), rows: rows, width: width)
        }
        withExtendedLifetime((logits, targets, scale)) {}
    }

    /// See ``DifferentiableBackend/crossEntropy(ofShard:targets:scale:gradient:logProbabilities:reduce:)``.
    public func crossEntropy(
        ofShard logits: Tensor, targets: Tensor, scale: Tensor, gradient: Tensor?, logProbabilities: Tensor,
        reduce: (_ values: Tensor, _ isMaximum: Bool) -> Void
    ) {
        let (rows, width) = Self.extents(logits, "crossEntropy")
        precondition(
            targets.count == rows && targets.dtype == .i32 && scale.count == rows && logProbabilities.count == rows,
            "crossEntropy: \(targets.count) targets, \(rows) rows")
        guard rows > 0 else { return }
        let (logits, targets, scale) = (onDevice(logits), onDevice(targets), onDevice(scale))
        // The largest logit here, that of all, the sum of exponentials, the target's logit.
        let statistics = makeTensor([4, rows], .f32)
        perform {
            try operations.shardStatistics(
                array(logits), targets: address(targets), statistics: address(statistics), rows: rows, width: width)
        }
        reduce(statistics.rows(1..<2), true)
        perform {
            try operations.mergeShardStatistics(
                array(logits), targets: address(targets), statistics: address(statistics), rows: rows, width: width)
        }
        reduce(statistics.rows(2..<4), false)
        perform {
            try operations.shardGradient(
                array(logits), targets: address(targets), scales: address(scale), statistics: address(statistics),
                gradient: gradient.map(array), logProbabilities: address(logProbabilities), rows: rows, width: width)
        }
        withExtendedLifetime((logits, targets, scale, statistics)) {}
    }

    /// See ``DifferentiableBackend/weightedSum(_:_:factor:)``.
    public func weightedSum(_ a: Tensor, _ b: Tensor, factor: Float) -> Tensor {
        precondition(a.count == b.count && a.dtype == .f32 && b.dtype == .f32, "weightedSum: \(a.shape), \(b.shape)")
        let (a, b) = (onDevice(a), onDevice(b))
        let result = makeTensor([1], .f32)
        perform {
            try operations.weightedSum(address(a), address(b), factor: factor, count: a.count, to: address(result))
        }
        withExtendedLifetime((a, b)) {}
        return result
    }

    /// See ``DifferentiableBackend/fill(_:withRow:)``.
    public func fill(_ result: MatrixView, withRow row: Tensor) {
        precondition(
            row.count == result.columns && row.dtype == .f32 && row.isContiguous && !result.isTransposed,
            "fill: a row of \(row.shape)")
        let row = onDevice(row)
        perform {
            let target = try matrix(result)
            try operations.copyRows(
                address(row), stride: 0, to: target.array, stride: target.stride, rows: target.rows,
                columns: target.columns)
        }
        withExtendedLifetime(row) {}
    }

    /// See ``DifferentiableBackend/columnSums(_:to:adds:)``.
    public func columnSums(_ x: MatrixView, to sums: Tensor, adds: Bool) {
        precondition(sums.count == x.columns && sums.dtype == .f32 && !x.isTransposed, "columnSums: \(sums.shape)")
        perform {
            let x = try matrix(x)
            try operations.columnSums(
                x.array, stride: x.stride, rows: x.rows, columns: x.columns, to: address(sums), adds: adds)
        }
    }

    /// See ``DifferentiableBackend/sumOfSquares(_:)``.
    public func sumOfSquares(_ tensors: [Tensor]) -> Tensor {
        let tensors = tensors.map(onDevice)
        let result = makeTensor([1], .f64)
        perform {
            try operations.sumOfSquares(
                tensors.map { x in
                    precondition(x.dtype == .f32 && x.isContiguous, "sumOfSquares of \(x.dtype)")
                    return (try address(x), x.count)
                }, to: address(result))
        }
        withExtendedLifetime(tensors) {}
        return result
    }

    /// See ``DifferentiableBackend/adamW(_:_:clip:squares:)``.
    public func adamW(_ step: AdamWStep, _ updates: [AdamWUpdate], clip: Float, squares: Tensor) {
        let squares = onDevice(squares)
        perform {
            let list = try updates.map { update in
                precondition(
                    update.gradient.count == update.values.count && update.firstMoment.count == update.values.count
                        && update.secondMoment.count == update.values.count && update.gradient.dtype == .f32,
                    "adamW: counts differ")
                return CUDAOperations.UpdatedTensor(
                    gradient: try address(update.gradient), values: try address(update.values),
                    firstMoment: try address(update.firstMoment), secondMoment: try address(update.secondMoment),
                    narrow: try update.narrow.map(address) ?? 0, count: update.values.count,
                    decay: update.weightDecay)
            }
            try operations.adamW(step, list, clip: clip, squares: address(squares))
        }
        withExtendedLifetime(squares) {}
    }

    /// See ``DifferentiableBackend/rotate(_:cosine:sine:isInterleaved:)``.
    public func rotate(_ view: HeadsView, cosine: Tensor, sine: Tensor, isInterleaved: Bool) {
        let tokens = view.tensor.count / max(view.tokenStride, 1)
        precondition(cosine.count == tokens * view.width / 2, "rotate: \(cosine.shape)")
        let (cosine, sine) = (onDevice(cosine), onDevice(sine))
        perform {
            try operations.rotate(
                array(view.tensor).advanced(by: view.offset), cosine: address(cosine), sine: address(sine),
                tokens: tokens, heads: view.heads, pairs: view.width / 2, tokenStride: view.tokenStride,
                headStride: view.headStride, isInterleaved: isInterleaved)
        }
        withExtendedLifetime((cosine, sine)) {}
    }
}
