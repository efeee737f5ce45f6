import CApusKernels

extension CPUBackend: DifferentiableBackend {
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

    /// See ``DifferentiableBackend/rmsNormBackward(_:weight:inverse:gradient:base:into:weightGradient:)``.
    public func rmsNormBackward(
        _ x: Tensor, weight: Tensor, inverse: Tensor, gradient: Tensor, base: Tensor?, into result: Tensor,
        weightGradient: Tensor
    ) {
        let (rows, width) = Self.matrix(x, "rmsNormBackward")
        precondition(gradient.dtype == .f32 && gradient.count == x.count, "rmsNormBackward: \(gradient.shape)")
        precondition(base == nil || base!.dtype == .f32 && base!.count == x.count, "rmsNormBackward: base")
        let status = apus_rms_norm_backward(
            pool, Int64(rows), Int64(width), x.pointer(as: Float.self), weight.pointer(as: Float.self),
            inverse.pointer(as: Float.self), gradient.pointer(as: Float.self), base?.pointer(as: Float.self),
            result.pointer(as: Float.self), weightGradient.pointer(as: Float.self))
        Self.checkScratch(status)
        withExtendedLifetime((x, weight, inverse, gradient, base)) {}
    }

    /// See ``DifferentiableBackend/swigluForward(gate:up:output:)``.
    public func swigluForward(gate: Tensor, up: Tensor, output: DType) -> Tensor {
        let (rows, width) = Self.matrix(gate, "swiglu")
        let result = Tensor(uninitialized: gate.shape, dtype: output)
        apus_swiglu_forward(
            pool, Int64(rows), Int64(width), gate.pointer(as: Float.self), up.pointer(as: Float.self),
            Self.floatType(output), result.rawPointer)
        withExtendedLifetime((gate, up)) {}
        return result
    }

    /// See ``DifferentiableBackend/swigluBackward(gate:up:gradient:output:)``.
    public func swigluBackward(gate: Tensor, up: Tensor, gradient: Tensor, output: DType) -> (gate: Tensor, up: Tensor)
    {
        let (rows, width) = Self.matrix(gate, "swigluBackward")
        precondition(gradient.dtype == .f32 && gradient.count == gate.count, "swigluBackward: \(gradient.shape)")
        let dGate = Tensor(uninitialized: gate.shape, dtype: output)
        let dUp = Tensor(uninitialized: gate.shape, dtype: output)
        apus_swiglu_backward(
            pool, Int64(rows), Int64(width), gate.pointer(as: Float.self), up.pointer(as: Float.self),
            gradient.pointer(as: Float.self), Self.floatType(output), dGate.rawPointer, dUp.rawPointer)
        withExtendedLifetime((gate, up, gradient)) {}
        return (dGate, dUp)
    }

    /// See ``DifferentiableBackend/embeddingBackward(_:gradient:tableGradient:)``.
    public func embeddingBackward(_ tokens: [Int32], gradient: Tensor, tableGradient: Tensor) {
        let (rows, width) = Self.matrix(gradient, "embeddingBackward")
        precondition(rows == tokens.count && tableGradient.shape[-1] == width, "embeddingBackward: \(gradient.shape)")
        apus_embedding_backward(
            pool, Int64(rows), Int64(width), tokens, gradient.pointer(as: Float.self),
            tableGradient.pointer(as: Float.self))
        withExtendedLifetime((gradient, tableGradient)) {}
    }

    /// See ``DifferentiableBackend/crossEntropy(_:targets:scale:gradient:)``.
    public func crossEntropy(
        _ logits: Tensor, targets: ArraySlice<Int32>, scale: ArraySlice<Float>, gradient: Tensor?
    ) -> [Float] {
        let (rows, width) = Self.matrix(logits, "crossEntropy")
        precondition(
            targets.count == rows && scale.count == rows, "crossEntropy: \(targets.count) targets, \(rows) rows")
        return [Float](unsafeUninitializedCapacity: rows) { result, count in
            targets.withUnsafeBufferPointer { targets in
                scale.withUnsafeBufferPointer { scale in
                    apus_cross_entropy(
                        pool, Int64(rows), Int64(width), logits.pointer(as: Float.self), targets.baseAddress,
                        scale.baseAddress, Self.floatType(gradient?.dtype ?? .f32), gradient?.rawPointer,
                        result.baseAddress)
                }
            }
            withExtendedLifetime((logits, gradient)) {}
            count = rows
        }
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

    /// See ``DifferentiableBackend/addColumnSums(_:to:)``.
    public func addColumnSums(_ x: MatrixView, to sums: Tensor) {
        precondition(sums.count == x.columns && sums.dtype == .f32 && !x.isTransposed, "addColumnSums: \(sums.shape)")
        let status = apus_column_sums(
            pool, Int64(x.rows), Int64(x.columns), Self.floatType(x.tensor.dtype),
            x.tensor.rawPointer + x.offset * x.tensor.dtype.bytesPerBlock, Int64(x.stride), sums.pointer(as: Float.self)
        )
        Self.checkScratch(status)
        withExtendedLifetime((x, sums)) {}
    }

    /// See ``DifferentiableBackend/sumOfSquares(_:)``.
    public func sumOfSquares(_ x: Tensor) -> Double {
        precondition(x.dtype == .f32 && x.isContiguous, "sumOfSquares of \(x.dtype)")
        defer { withExtendedLifetime(x) {} }
        return apus_sum_of_squares(pool, Int64(x.count), x.pointer(as: Float.self))
    }

    /// See ``DifferentiableBackend/adamW(_:gradient:values:firstMoment:secondMoment:narrow:)``.
    public func adamW(
        _ step: AdamWStep, gradient: Tensor, values: Tensor, firstMoment: Tensor, secondMoment: Tensor, narrow: Tensor?
    ) {
        precondition(gradient.count == values.count && firstMoment.count == values.count, "adamW: counts differ")
        var parameters = apus_adamw_parameters(
            learning_rate: step.learningRate, beta1: step.beta1, beta2: step.beta2, epsilon: step.epsilon,
            weight_decay: step.weightDecay, gradient_scale: step.gradientScale,
            correction1: step.correction(step.beta1), correction2: step.correction(step.beta2))
        apus_adamw(
            pool, Int64(values.count), &parameters, gradient.pointer(as: Float.self), values.pointer(as: Float.self),
            firstMoment.pointer(as: Float.self), secondMoment.pointer(as: Float.self), narrow?.pointer(as: UInt16.self))
        withExtendedLifetime((gradient, values, firstMoment, secondMoment, narrow)) {}
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
