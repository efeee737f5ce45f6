import CApusKernels

extension CPUBackend {
    /// See ``DifferentiableBackend/attentionForward(_:_:output:)``.
    public func attentionForward(
        _ operands: AttentionOperands, _ parameters: SequenceAttention, output: DType
    ) -> (output: Tensor, logSumExp: Tensor) {
        let tokens = parameters.starts.last ?? 0
        let (heads, width) = (operands.query.heads, operands.value.width)
        let result = Tensor(uninitialized: [tokens, heads, width])
        let logSumExp = Tensor(uninitialized: [tokens, heads])
        let status = withShape(operands, parameters) { shape in
            var inputs = Self.inputs(operands)
            let rows = HeadsView(result.reshaped([tokens, heads * width]), heads: heads, elements: 0..<width)
            return apus_training_attention_forward(
                pool, shape, &inputs, Self.output(rows, adds: false), logSumExp.pointer(as: Float.self))
        }
        Self.checkAttention(status)
        withExtendedLifetime(operands) {}
        return (output == .f32 ? result : converted(result, to: output), logSumExp)
    }

    /// See ``DifferentiableBackend/attentionBackward(_:_:output:logSumExp:gradient:into:adds:)``.
    public func attentionBackward(
        _ operands: AttentionOperands, _ parameters: SequenceAttention, output: Tensor, logSumExp: Tensor,
        gradient: Tensor, into gradients: AttentionOperands, adds: Bool
    ) {
        let (heads, width) = (operands.query.heads, operands.value.width)
        let exact = output.dtype == .f32 ? output : converted(output, to: .f32)
        let rows: Shape = [output.shape[0], heads * width]
        precondition(gradient.dtype == .f32 && gradient.count == output.count, "attention: gradient \(gradient.shape)")
        let status = withShape(operands, parameters) { shape in
            var inputs = Self.inputs(operands)
            var targets = apus_training_gradients(
                query: Self.output(gradients.query, adds: adds), key_own: Self.output(gradients.key, adds: adds),
                key_once: gradients.keyOnce.map { Self.output($0, adds: adds) } ?? apus_training_output(),
                value: Self.output(gradients.value, adds: adds))
            func input(_ tensor: Tensor) -> apus_training_input {
                Self.input(HeadsView(tensor.reshaped(rows), heads: heads, elements: 0..<width))
            }
            return apus_training_attention_backward(
                pool, shape, &inputs, input(exact), logSumExp.pointer(as: Float.self), input(gradient), &targets)
        }
        Self.checkAttention(status)
        withExtendedLifetime((operands, exact, logSumExp, gradient, gradients)) {}
    }

    private func withShape(
        _ operands: AttentionOperands, _ parameters: SequenceAttention,
        _ body: (UnsafePointer<apus_training_attention>) -> Int32
    ) -> Int32 {
        parameters.starts.map(Int64.init).withUnsafeBufferPointer { starts in
            var shape = apus_training_attention(
                heads: Int64(operands.query.heads), kv_heads: Int64(operands.key.heads),
                key_own: Int64(operands.key.width), key_once: Int64(operands.keyOnce?.width ?? 0),
                value: Int64(operands.value.width), sequences: Int64(starts.count - 1), starts: starts.baseAddress,
                window: Int64(parameters.window ?? 0), scale: parameters.scale,
                arithmetic: parameters.usesBFloat16 ? APUS_TRAINING_BF16 : APUS_TRAINING_F32)
            return body(&shape)
        }
    }

    private static func inputs(_ operands: AttentionOperands) -> apus_training_operands {
        apus_training_operands(
            query: input(operands.query), key_own: input(operands.key),
            key_once: operands.keyOnce.map(input) ?? apus_training_input(), value: input(operands.value))
    }

    private static func input(_ view: HeadsView) -> apus_training_input {
        precondition(view.tensor.dtype == .f32 && view.tensor.isContiguous, "attention of \(view.tensor.dtype)")
        return apus_training_input(
            base: view.tensor.pointer(as: Float.self) + view.offset, token_stride: Int64(view.tokenStride),
            head_stride: Int64(view.headStride))
    }

    private static func output(_ view: HeadsView, adds: Bool) -> apus_training_output {
        apus_training_output(
            base: view.tensor.pointer(as: Float.self) + view.offset, token_stride: Int64(view.tokenStride),
            head_stride: Int64(view.headStride), accumulate: adds ? 1 : 0)
    }

    private static func checkAttention(_ status: Int32) {
        if status == -2 { preconditionFailure("attention: sequences and widths do not fit together") }
        checkScratch(status)
    }
}
