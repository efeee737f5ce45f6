extension CUDABackend {
    /// See ``Backend/rmsNorm(_:weight:epsilon:)``.
    public func rmsNorm(_ x: Tensor, weight: Tensor, epsilon: Float) -> Tensor {
        let x = onDevice(x)
        guard weight.shape.rank == 2 else {
            return rmsNormForward(x, adding: nil, weight: weight, epsilon: epsilon, output: .f32).normalized
        }
        precondition(
            x.dtype == .f32 && x.shape.rank == 3 && x.hasContiguousRows && weight.shape == [x.shape[1], x.shape[2]],
            "rmsNorm: weight \(weight.shape) for \(x.shape)")
        let weight = onDevice(weight)
        let result = makeTensor(x.shape, .f32)
        perform {
            try operations.rmsNorm(
                array(x), weight: address(weight), epsilon: epsilon, to: array(result),
                rows: x.shape[0] * x.shape[1], width: x.shape[2], groups: x.shape[1],
                strides: (x.strides[0], x.strides[1]))
        }
        withExtendedLifetime((x, weight)) {}
        return result
    }

    /// See ``Backend/layerNorm(_:weight:bias:epsilon:)``.
    public func layerNorm(_ x: Tensor, weight: Tensor, bias: Tensor?, epsilon: Float) -> Tensor {
        let (rows, width) = Self.extents(x, "layerNorm")
        precondition(x.dtype == .f32 && weight.count == width, "layerNorm: weight \(weight.shape)")
        let (x, weight, bias) = (onDevice(x), onDevice(weight), bias.map(onDevice))
        let result = makeTensor(x.shape, .f32)
        perform {
            try operations.layerNorm(
                address(x), weight: address(weight), bias: bias.map(address), epsilon: epsilon, to: address(result),
                rows: rows, width: width)
        }
        withExtendedLifetime((x, weight, bias)) {}
        return result
    }

    /// See ``Backend/activateInPlace(_:_:times:)``.
    public func activateInPlace(_ x: Tensor, _ activation: ActivationFunction, times factor: Tensor?) {
        precondition(x.dtype == .f32 && x.isContiguous, "activation of \(x.dtype)")
        precondition(factor == nil || factor!.shape == x.shape && factor!.isContiguous, "activation: shapes differ")
        let factor = factor.map(onDevice)
        perform {
            try operations.activate(address(x), activation, times: factor.map(address), count: x.count)
        }
        withExtendedLifetime(factor) {}
    }

    /// See ``Backend/scale(_:by:)``.
    public func scale(_ x: Tensor, by factor: Float) {
        precondition(x.isContiguous, "scale: \(x.shape)")
        perform { try operations.scale(array(x), by: factor, count: x.count) }
    }

    /// See ``Backend/add(_:to:)``.
    public func add(_ x: Tensor, to sum: Tensor) {
        precondition(
            sum.count == x.count && sum.isContiguous && x.isContiguous, "add: \(x.shape) to \(sum.shape)")
        let x = onDevice(x)
        perform { try operations.add(array(x), to: array(sum), count: x.count) }
        withExtendedLifetime(x) {}
    }

    /// See ``Backend/rope(_:rotaryWidth:interleaved:cosine:sine:)``.
    public func rope(_ x: Tensor, rotaryWidth: Int, interleaved: Bool, cosine: Tensor, sine: Tensor) {
        precondition(x.shape.rank == 3 && x.hasContiguousRows, "rope: [tokens, heads, width] expected")
        let (tokens, heads, width) = (x.shape[0], x.shape[1], x.shape[2])
        precondition(rotaryWidth <= width && cosine.count == tokens * rotaryWidth / 2, "rope: tables \(cosine.shape)")
        let (cosine, sine) = (onDevice(cosine), onDevice(sine))
        perform {
            try operations.rotate(
                array(x), cosine: address(cosine), sine: address(sine), tokens: tokens, heads: heads,
                pairs: rotaryWidth / 2, tokenStride: x.strides[0], headStride: x.strides[1],
                isInterleaved: interleaved)
        }
        withExtendedLifetime((cosine, sine)) {}
    }

    /// See ``Backend/logProbabilities(_:of:)``.
    public func logProbabilities(_ logits: Tensor, of targets: [Int32]) -> [Float] {
        let (rows, _) = Self.extents(logits, "logProbabilities")
        precondition(targets.count == rows, "\(targets.count) targets for \(rows) rows")
        let result = makeTensor([rows], .f32)
        crossEntropy(
            logits, targets: Tensor(targets), scale: Tensor([Float](repeating: 0, count: rows), shape: [rows]),
            gradient: nil, logProbabilities: result)
        return result.floats
    }
}
