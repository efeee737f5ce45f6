extension CUDABackend {
    /// See ``DifferentiableBackend/attentionForward(_:_:output:)``. Operands are rounded to bf16, whatever
    /// ``SequenceAttention/usesBFloat16`` says.
    public func attentionForward(
        _ operands: AttentionOperands, _ parameters: SequenceAttention, output: DType
    ) -> (output: Tensor, logSumExp: Tensor) {
        let tokens = parameters.starts.last ?? 0
        let result = makeTensor([tokens, operands.query.heads, operands.value.width], output)
        let logSumExp = makeTensor([tokens, operands.query.heads], .f32)
        let narrow = narrowed(operands)
        perform {
            try attention.forwardPadding(
                heads(narrow), parameters, output: array(result), logSumExp: address(logSumExp), on: operations)
        }
        withExtendedLifetime(narrow) {}
        return (result, logSumExp)
    }

    /// See ``DifferentiableBackend/attentionBackward(_:_:output:logSumExp:gradient:into:adds:)``.
    public func attentionBackward(
        _ operands: AttentionOperands, _ parameters: SequenceAttention, output: Tensor, logSumExp: Tensor,
        gradient: Tensor, into gradients: AttentionOperands, adds: Bool
    ) {
        precondition(gradient.count == output.count, "attention: gradient \(gradient.shape)")
        let narrow = narrowed(operands)
        let gradient = gradient.dtype == .bf16 ? onDevice(gradient) : converted(gradient, to: .bf16)
        perform {
            try attention.backwardPadding(
                heads(narrow), parameters, output: array(output), logSumExp: address(logSumExp),
                gradient: address(gradient), into: heads(gradients), adds: adds, on: operations)
        }
        withExtendedLifetime((narrow, gradient)) {}
    }

    /// The operands in bf16; tensors that several of them lie in are rounded once.
    private func narrowed(_ operands: AttentionOperands) -> AttentionOperands {
        var known: [(from: Tensor, to: Tensor)] = []
        func narrowed(_ view: HeadsView) -> HeadsView {
            if view.tensor.dtype == .bf16, view.tensor.device == device { return view }
            if let pair = known.first(where: { $0.from.beginsWhere(view.tensor) }) { return view.inside(pair.to) }
            let copy = converted(view.tensor.detached(), to: .bf16)
            known.append((view.tensor, copy))
            return view.inside(copy)
        }
        return AttentionOperands(
            query: narrowed(operands.query), key: narrowed(operands.key), keyOnce: operands.keyOnce.map(narrowed),
            value: narrowed(operands.value))
    }

    private func heads(_ operands: AttentionOperands) throws -> CUDAAttentionOperands {
        func heads(_ view: HeadsView) throws -> CUDAHeads {
            CUDAHeads(
                try array(view.tensor).advanced(by: view.offset), heads: view.heads, width: view.width,
                tokenStride: view.tokenStride, headStride: view.headStride)
        }
        return CUDAAttentionOperands(
            query: try heads(operands.query), key: try heads(operands.key),
            keyOnce: try operands.keyOnce.map(heads), value: try heads(operands.value))
    }
}
