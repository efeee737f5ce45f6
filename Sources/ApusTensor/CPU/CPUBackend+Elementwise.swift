import CApusKernels

extension CPUBackend {
    /// See ``Backend/rmsNorm(_:weight:epsilon:)``.
    public func rmsNorm(_ x: Tensor, weight: Tensor, epsilon: Float) -> Tensor {
        if weight.shape.rank == 2 { return groupedRMSNorm(x, weight: weight, epsilon: epsilon) }
        let (rows, width) = Self.matrix(x, "rmsNorm")
        precondition(
            weight.dtype == .f32 && weight.count == width, "rmsNorm: weight \(weight.shape) for width \(width)")
        let out = Tensor(uninitialized: x.shape)
        apus_rms_norm_f32(
            pool, Int64(rows), Int64(width), x.pointer(as: Float.self), Int64(width), weight.pointer(as: Float.self), 0,
            epsilon, out.pointer(as: Float.self), Int64(width))
        withExtendedLifetime((x, weight)) {}
        return out
    }

    /// The norm of [rows, groups, width] with a weight per group.
    private func groupedRMSNorm(_ x: Tensor, weight: Tensor, epsilon: Float) -> Tensor {
        precondition(
            x.dtype == .f32 && x.shape.rank == 3 && x.hasContiguousRows && weight.dtype == .f32 && weight.isContiguous
                && weight.shape == [x.shape[1], x.shape[2]], "rmsNorm: weight \(weight.shape) for \(x.shape)")
        let (groups, width) = (x.shape[1], x.shape[2])
        let out = Tensor(uninitialized: x.shape)
        for group in 0..<groups {
            apus_rms_norm_f32(
                pool, Int64(x.shape[0]), Int64(width), x.pointer(as: Float.self) + group * x.strides[1],
                Int64(x.strides[0]), weight.pointer(as: Float.self) + group * width, 0, epsilon,
                out.pointer(as: Float.self) + group * width, Int64(groups * width))
        }
        withExtendedLifetime((x, weight)) {}
        return out
    }

    /// See ``Backend/layerNorm(_:weight:bias:epsilon:)``.
    public func layerNorm(_ x: Tensor, weight: Tensor, bias: Tensor?, epsilon: Float) -> Tensor {
        let (rows, width) = Self.matrix(x, "layerNorm")
        precondition(weight.dtype == .f32 && weight.count == width, "layerNorm: weight \(weight.shape)")
        let out = Tensor(uninitialized: x.shape)
        apus_layer_norm_f32(
            pool, Int64(rows), Int64(width), x.pointer(as: Float.self), Int64(width), weight.pointer(as: Float.self),
            bias?.pointer(as: Float.self), epsilon, out.pointer(as: Float.self), Int64(width))
        withExtendedLifetime((x, weight, bias)) {}
        return out
    }

    /// See ``Backend/activateInPlace(_:_:times:)``.
    public func activateInPlace(_ x: Tensor, _ activation: ActivationFunction, times factor: Tensor?) {
        let (rows, width) = Self.matrix(x, "activation")
        precondition(factor == nil || factor!.shape == x.shape && factor!.isContiguous, "activation: shapes differ")
        let values = x.pointer(as: Float.self)
        switch activation {
        case .silu:
            let factor = factor ?? Tensor([Float](repeating: 1, count: x.count), shape: x.shape)
            apus_silu_mul_f32(
                pool, Int64(rows), Int64(width), values, Int64(width), factor.pointer(as: Float.self), Int64(width),
                values,
                Int64(width))
            withExtendedLifetime(factor) {}
        case .gelu, .geluTanh:
            apus_gelu_f32(
                pool, Int64(rows), Int64(width), activation == .gelu ? APUS_GELU_ERF : APUS_GELU_TANH, values,
                Int64(width), factor?.pointer(as: Float.self), Int64(width), values, Int64(width))
        }
        withExtendedLifetime((x, factor)) {}
    }

    /// See ``Backend/scale(_:by:)``.
    public func scale(_ x: Tensor, by factor: Float) {
        let (rows, width) = Self.matrix(x, "scale")
        let values = x.pointer(as: Float.self)
        apus_scale_softcap_f32(pool, Int64(rows), Int64(width), factor, 0, values, Int64(width), values, Int64(width))
        withExtendedLifetime(x) {}
    }

    /// See ``Backend/add(_:to:)``.
    public func add(_ x: Tensor, to sum: Tensor) {
        let x = x.dtype == .bf16 ? converted(x, to: .f32) : x
        let (rows, width) = Self.matrix(x, "add")
        precondition(sum.shape == x.shape && sum.isContiguous && sum.dtype == .f32, "add: \(x.shape) to \(sum.shape)")
        let target = sum.pointer(as: Float.self)
        apus_add_f32(
            pool, Int64(rows), Int64(width), x.pointer(as: Float.self), Int64(width), target, Int64(width), target,
            Int64(width))
        withExtendedLifetime((x, sum)) {}
    }

    /// See ``Backend/rope(_:rotaryWidth:interleaved:cosine:sine:)``.
    public func rope(
        _ x: Tensor, rotaryWidth: Int, interleaved: Bool, cosine: Tensor, sine: Tensor
    ) {
        precondition(
            x.shape.rank == 3 && x.hasContiguousRows && x.dtype == .f32, "rope: [tokens, heads, width] expected")
        let (tokens, heads, width) = (x.shape[0], x.shape[1], x.shape[2])
        precondition(rotaryWidth <= width && cosine.count == tokens * rotaryWidth / 2, "rope: tables \(cosine.shape)")
        apus_rope_f32(
            pool, Int64(tokens), Int64(heads), Int64(rotaryWidth),
            interleaved ? APUS_ROPE_INTERLEAVED : APUS_ROPE_HALF_SPLIT, cosine.pointer(as: Float.self),
            sine.pointer(as: Float.self), x.pointer(as: Float.self), Int64(x.strides[0]), Int64(x.strides[1]))
        withExtendedLifetime((x, cosine, sine)) {}
    }

    /// See ``Backend/logProbabilities(_:of:)``.
    public func logProbabilities(_ logits: Tensor, of targets: [Int32]) -> [Float] {
        let (rows, width) = Self.matrix(logits, "logProbabilities")
        precondition(targets.count == rows, "\(targets.count) targets for \(rows) rows")
        var sums = [Float](repeating: 0, count: rows)
        apus_log_sum_exp_f32(pool, Int64(rows), Int64(width), logits.pointer(as: Float.self), Int64(width), &sums)
        return logits.withElements(of: Float.self) { values in
            zip(targets, sums).enumerated().map { row, pair in values[row * width + Int(pair.0)] - pair.1 }
        }
    }
}
