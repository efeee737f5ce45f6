import CApusKernels

extension CPUBackend: DifferentiableBackend {
    /// Float32.
    public func activationType(compute: DType) -> DType { .f32 }

    /// A block's logits take about 16 MB, and at least 64 rows keep the products efficient.
    public func headRows(vocabulary: Int) -> Int { max(64, (4 << 20) / max(vocabulary, 1) / 64 * 64) }

    /// See ``DifferentiableBackend/makeTensor(_:_:)``.
    public func makeTensor(_ shape: Shape, _ dtype: DType) -> Tensor { Tensor(uninitialized: shape, dtype: dtype) }

    /// See ``DifferentiableBackend/copyToDevice(_:)``.
    public func copyToDevice(_ x: Tensor) -> Tensor {
        precondition(x.isContiguous, "a copy of a view")
        let result = Tensor(uninitialized: x.shape, dtype: x.dtype)
        result.rawPointer.copyMemory(from: x.rawPointer, byteCount: x.byteCount)
        withExtendedLifetime(x) {}
        return result
    }

    /// The tensors themselves.
    public func toHost(_ tensors: [Tensor]) -> [Tensor] { tensors }

    /// Does nothing: what fails here stops the process.
    public func check() {}

    /// See ``DifferentiableBackend/multiply(_:_:into:accumulate:)``.
    public func multiply(_ a: MatrixView, _ b: MatrixView, into c: MatrixView, accumulate: Bool) {
        let (m, k) = a.isTransposed ? (a.columns, a.rows) : (a.rows, a.columns)
        let (inner, n) = b.isTransposed ? (b.columns, b.rows) : (b.rows, b.columns)
        precondition(
            inner == k && c.rows == m && c.columns == n && !c.isTransposed, "multiply: [\(m), \(k)] x [\(inner), \(n)]")
        precondition(a.tensor.dtype == b.tensor.dtype && c.tensor.dtype == .f32, "multiply: dtypes differ")
        let target = c.tensor.pointer(as: Float.self) + c.offset
        let (transA, transB): (Int32, Int32) = (a.isTransposed ? 1 : 0, b.isTransposed ? 1 : 0)
        let beta: Float = accumulate ? 1 : 0
        let status: Int32
        switch a.tensor.dtype {
        case .f32:
            status = apus_gemm_f32(
                pool, transA, transB, Int64(m), Int64(n), Int64(k), 1, a.tensor.pointer(as: Float.self) + a.offset,
                Int64(a.stride), b.tensor.pointer(as: Float.self) + b.offset, Int64(b.stride), beta, target,
                Int64(c.stride))
        case .bf16:
            status = apus_gemm_bf16(
                pool, transA, transB, Int64(m), Int64(n), Int64(k), 1, a.tensor.pointer(as: UInt16.self) + a.offset,
                Int64(a.stride), b.tensor.pointer(as: UInt16.self) + b.offset, Int64(b.stride), beta, target,
                Int64(c.stride))
        default: preconditionFailure("multiply: \(a.tensor.dtype)")
        }
        Self.checkScratch(status)
        withExtendedLifetime((a, b, c)) {}
    }

    /// See ``DifferentiableBackend/convert(_:into:)``.
    public func convert(_ x: Tensor, into result: Tensor) {
        precondition(x.shape == result.shape && x.isContiguous && result.isContiguous, "convert: \(x.shape)")
        // Rows of a few thousand elements, whatever the shape: the pool shares rows.
        let row = 4096
        let (whole, rest) = (x.count / row, x.count % row)
        let (from, to) = (Self.floatType(x.dtype), Self.floatType(result.dtype))
        apus_convert(
            pool, Int64(whole), Int64(row), from, x.rawPointer, Int64(row), to, result.rawPointer, Int64(row))
        apus_convert(
            pool, 1, Int64(rest), from, x.rawPointer + whole * row * x.dtype.bytesPerBlock, Int64(rest), to,
            result.rawPointer + whole * row * result.dtype.bytesPerBlock, Int64(rest))
        withExtendedLifetime((x, result)) {}
    }

    /// See ``DifferentiableBackend/rmsNormForward(_:adding:weight:epsilon:output:)``.
    public func rmsNormForward(
        _ x: Tensor, adding addend: Tensor?, weight: Tensor, epsilon: Float, output: DType
    ) -> (sum: Tensor, normalized: Tensor, inverse: Tensor) {
        let (rows, width) = Self.matrix(x, "rmsNorm")
        precondition(weight.count == width && (addend == nil || addend!.shape == x.shape), "rmsNorm: \(x.shape)")
        let sum = addend == nil ? x.detached() : Tensor(uninitialized: x.shape)
        let normalized = Tensor(uninitialized: x.shape, dtype: output)
        let inverse = Tensor(uninitialized: [rows])
        apus_rms_norm_forward(
            pool, Int64(rows), Int64(width), x.pointer(as: Float.self), addend?.pointer(as: Float.self),
            sum.pointer(as: Float.self), weight.pointer(as: Float.self), epsilon, Self.floatType(output),
            normalized.rawPointer, inverse.pointer(as: Float.self))
        withExtendedLifetime((x, addend, weight)) {}
        return (sum, normalized, inverse)
    }

    /// See ``DifferentiableBackend/rmsNormBackward(_:weight:inverse:gradient:base:into:narrow:weightGradient:adds:)``.
    public func rmsNormBackward(
        _ x: Tensor, weight: Tensor, inverse: Tensor, gradient: Tensor, base: Tensor?, into result: Tensor,
        narrow: Tensor?, weightGradient: Tensor?, adds: Bool
    ) {
        let target = weightGradient ?? Tensor(uninitialized: weight.shape)
        if weightGradient == nil || !adds { target.fillWithZeros() }
        let (rows, width) = Self.matrix(x, "rmsNormBackward")
        precondition(gradient.dtype == .f32 && gradient.count == x.count, "rmsNormBackward: \(gradient.shape)")
        precondition(base == nil || base!.dtype == .f32 && base!.count == x.count, "rmsNormBackward: base")
        let status = apus_rms_norm_backward(
            pool, Int64(rows), Int64(width), x.pointer(as: Float.self), weight.pointer(as: Float.self),
            inverse.pointer(as: Float.self), gradient.pointer(as: Float.self), base?.pointer(as: Float.self),
            result.pointer(as: Float.self), target.pointer(as: Float.self))
        Self.checkScratch(status)
        if let narrow { convert(result, into: narrow) }
        withExtendedLifetime((x, weight, inverse, gradient, base)) {}
    }

    /// See ``DifferentiableBackend/swigluForward(gate:up:output:)``.
    public func swigluForward(gate: MatrixView, up: MatrixView, output: DType) -> Tensor {
        precondition(
            gate.tensor.dtype == .f32 && up.tensor.dtype == .f32 && gate.stride == up.stride && gate.rows == up.rows
                && gate.columns == up.columns, "swiglu: \(gate.tensor.shape)")
        let result = Tensor(uninitialized: Self.shape(gate.tensor, width: gate.columns), dtype: output)
        apus_swiglu_forward(
            pool, Int64(gate.rows), Int64(gate.columns), Self.address(gate), Self.address(up), Int64(gate.stride),
            Self.floatType(output), result.rawPointer)
        withExtendedLifetime((gate, up)) {}
        return result
    }

    /// See ``DifferentiableBackend/swigluBackward(gate:up:gradient:gateGradient:upGradient:)``.
    public func swigluBackward(
        gate: MatrixView, up: MatrixView, gradient: Tensor, gateGradient: MatrixView, upGradient: MatrixView
    ) {
        precondition(
            gradient.dtype == .f32 && gradient.count == gate.rows * gate.columns
                && gateGradient.stride == upGradient.stride, "swigluBackward: \(gradient.shape)")
        let type = gateGradient.tensor.dtype
        apus_swiglu_backward(
            pool, Int64(gate.rows), Int64(gate.columns), Self.address(gate), Self.address(up), Int64(gate.stride),
            gradient.pointer(as: Float.self), Self.floatType(type),
            gateGradient.tensor.rawPointer + gateGradient.offset * type.bytesPerBlock,
            upGradient.tensor.rawPointer + upGradient.offset * type.bytesPerBlock, Int64(gateGradient.stride))
        withExtendedLifetime((gate, up, gradient, gateGradient, upGradient)) {}
    }

    private static func address(_ view: MatrixView) -> UnsafeMutablePointer<Float> {
        view.tensor.pointer(as: Float.self) + view.offset
    }

    /// See ``DifferentiableBackend/gatherRows(_:_:)``.
    public func gatherRows(_ x: Tensor, _ rows: [Int32]) -> Tensor { x.detached().gatheringRows(rows.map(Int.init)) }

    /// See ``DifferentiableBackend/embeddingBackward(_:gradient:tableGradient:)``.
    public func embeddingBackward(_ tokens: [Int32], gradient: Tensor, tableGradient: Tensor) {
        let (rows, width) = Self.matrix(gradient, "embeddingBackward")
        precondition(rows == tokens.count && tableGradient.shape[-1] == width, "embeddingBackward: \(gradient.shape)")
        apus_embedding_backward(
            pool, Int64(rows), Int64(width), tokens, gradient.pointer(as: Float.self),
            tableGradient.pointer(as: Float.self))
        withExtendedLifetime((gradient, tableGradient)) {}
    }

    /// See ``DifferentiableBackend/crossEntropy(_:targets:scale:gradient:logProbabilities:)``.
    public func crossEntropy(
        _ logits: Tensor, targets: Tensor, scale: Tensor, gradient: Tensor?, logProbabilities: Tensor
    ) {
        let (rows, width) = Self.matrix(logits, "crossEntropy")
        precondition(
            targets.count == rows && targets.dtype == .i32 && scale.count == rows && logProbabilities.count == rows,
            "crossEntropy: \(targets.count) targets, \(rows) rows")
        apus_cross_entropy(
            pool, Int64(rows), Int64(width), logits.pointer(as: Float.self), targets.pointer(as: Int32.self),
            scale.pointer(as: Float.self), Self.floatType(gradient?.dtype ?? .f32), gradient?.rawPointer,
            logProbabilities.pointer(as: Float.self))
        withExtendedLifetime((logits, targets, scale, gradient, logProbabilities)) {}
    }

    /// See ``DifferentiableBackend/weightedSum(_:_:factor:)``.
    public func weightedSum(_ a: Tensor, _ b: Tensor, factor: Float) -> Tensor {
        let total = zip(a.floats, b.floats).reduce(0.0) { $0 + Double($1.0) * Double($1.1) }
        return Tensor([Float(Double(factor) * total)], shape: [1])
    }

    /// See ``DifferentiableBackend/fill(_:withRow:)``.
    public func fill(_ result: MatrixView, withRow row: Tensor) {
        precondition(
            row.count == result.columns && row.dtype == .f32 && row.isContiguous && result.tensor.dtype == .f32
                && !result.isTransposed, "fill: a row of \(row.shape)")
        // Every row is read from the same place.
        apus_convert(
            pool, Int64(result.rows), Int64(result.columns), APUS_FLOAT_F32, row.rawPointer, 0, APUS_FLOAT_F32,
            result.tensor.pointer(as: Float.self) + result.offset, Int64(result.stride))
        withExtendedLifetime((result, row)) {}
    }

    /// See ``DifferentiableBackend/columnSums(_:to:adds:)``.
    public func columnSums(_ x: MatrixView, to sums: Tensor, adds: Bool) {
        precondition(sums.count == x.columns && sums.dtype == .f32 && !x.isTransposed, "columnSums: \(sums.shape)")
        if !adds { sums.fillWithZeros() }
        let status = apus_column_sums(
            pool, Int64(x.rows), Int64(x.columns), Self.floatType(x.tensor.dtype),
            x.tensor.rawPointer + x.offset * x.tensor.dtype.bytesPerBlock, Int64(x.stride), sums.pointer(as: Float.self)
        )
        Self.checkScratch(status)
        withExtendedLifetime((x, sums)) {}
    }

    /// See ``DifferentiableBackend/sumOfSquares(_:)``.
    public func sumOfSquares(_ tensors: [Tensor]) -> Tensor {
        let sum = tensors.reduce(0.0) { sum, x in
            precondition(x.dtype == .f32 && x.isContiguous, "sumOfSquares of \(x.dtype)")
            defer { withExtendedLifetime(x) {} }
            return sum + apus_sum_of_squares(pool, Int64(x.count), x.pointer(as: Float.self))
        }
        return Tensor(sum)
    }

    /// See ``DifferentiableBackend/adamW(_:_:clip:squares:)``.
    public func adamW(_ step: AdamWStep, _ updates: [AdamWUpdate], clip: Float, squares: Tensor) {
        let norm = squares.doubles[0].squareRoot() * Double(step.gradientScale)
        guard norm.isFinite else { return }
        let factor = clip > 0 && norm > Double(clip) ? Double(clip) / norm : 1
        for update in updates {
            precondition(
                update.gradient.count == update.values.count && update.firstMoment.count == update.values.count
                    && update.secondMoment.count == update.values.count, "adamW: counts differ")
            var parameters = apus_adamw_parameters(
                learning_rate: step.learningRate, beta1: step.beta1, beta2: step.beta2, epsilon: step.epsilon,
                weight_decay: update.weightDecay, gradient_scale: Float(Double(step.gradientScale) * factor),
                correction1: step.correction(step.beta1), correction2: step.correction(step.beta2))
            apus_adamw(
                pool, Int64(update.values.count), &parameters, update.gradient.pointer(as: Float.self),
                update.values.pointer(as: Float.self), update.firstMoment.pointer(as: Float.self),
                update.secondMoment.pointer(as: Float.self), update.narrow?.pointer(as: UInt16.self))
            withExtendedLifetime(update) {}
        }
    }

    /// See ``DifferentiableBackend/rotate(_:cosine:sine:isInterleaved:)``.
    public func rotate(_ view: HeadsView, cosine: Tensor, sine: Tensor, isInterleaved: Bool) {
        let tokens = view.tensor.count / max(view.tokenStride, 1)
        precondition(cosine.count == tokens * view.width / 2 && view.tensor.dtype == .f32, "rotate: \(cosine.shape)")
        apus_rope_f32(
            pool, Int64(tokens), Int64(view.heads), Int64(view.width),
            isInterleaved ? APUS_ROPE_INTERLEAVED : APUS_ROPE_HALF_SPLIT, cosine.pointer(as: Float.self),
            sine.pointer(as: Float.self), view.tensor.pointer(as: Float.self) + view.offset, Int64(view.tokenStride),
            Int64(view.headStride))
        withExtendedLifetime((view, cosine, sine)) {}
    }

    /// Shapes are checked before, so only scratch memory can be missing.
    static func checkScratch(_ status: Int32) {
        if status != 0 { fatalError("out of memory in an operation's scratch space") }
    }

    private static func floatType(_ dtype: DType) -> apus_float_type {
        switch dtype {
        case .f32: APUS_FLOAT_F32
        case .bf16: APUS_FLOAT_BF16
        default: preconditionFailure("float32 or bf16 expected, found \(dtype)")
        }
    }
}
