/// Cosine and sine of a batch's positions, for rotating queries and keys forwards and gradients back.
public struct RotaryAngles: Sendable {
    /// [tokens, rotated width / 2].
    public let cosine: Tensor
    /// As `cosine`.
    public let sine: Tensor
    /// `-sine`.
    let inverseSine: Tensor
    /// Whether pairs are neighbours instead of the two halves.
    public let isInterleaved: Bool

    /// Rows for the tokens of a batch, in its order.
    public init(cosine: Tensor, sine: Tensor, isInterleaved: Bool) {
        self.cosine = cosine
        self.sine = sine
        self.isInterleaved = isInterleaved
        inverseSine = Tensor(sine.floats.map { -$0 }, shape: sine.shape)
    }

    private init(_ other: RotaryAngles, on backend: any DifferentiableBackend) {
        cosine = backend.copyToDevice(other.cosine)
        sine = backend.copyToDevice(other.sine)
        inverseSine = backend.copyToDevice(other.inverseSine)
        isInterleaved = other.isInterleaved
    }

    /// The angles in a device's memory.
    package func on(_ backend: any DifferentiableBackend) -> RotaryAngles {
        cosine.device == backend.device ? self : RotaryAngles(self, on: backend)
    }

    /// Elements of a head that are rotated.
    public var width: Int { 2 * cosine.shape[-1] }
}

extension DifferentiableOperations {
    /// Causal attention in its training form, RoPE included.
    ///
    /// - Parameters:
    ///   - operands: queries, keys and values before rotation. **Queries and keys are rotated in place**: nobody else may
    ///     read them afterwards.
    ///   - rotary: what to rotate by; nil for none. Where a key is kept once for all heads it is rotated whole, with the
    ///     query's last elements; otherwise the first elements of query and key.
    ///   - parameters: sequences, scale, window.
    /// - Returns: [tokens, heads x value width], in the dtype of products.
    public func attention(
        _ operands: AttentionOperands, rotary: RotaryAngles?, _ parameters: SequenceAttention
    ) -> Tensor {
        var parameters = parameters
        parameters.usesBFloat16 = compute == .bf16
        let rotated = rotary.map { rotatedViews(operands, width: $0.width) } ?? []
        if let rotary {
            for view in rotated {
                backend.rotate(view, cosine: rotary.cosine, sine: rotary.sine, isInterleaved: rotary.isInterleaved)
            }
        }
        let (output, logSumExp) = backend.attentionForward(operands, parameters, output: compute)
        let flat = output.reshaped([output.shape[0], output.shape[1] * output.shape[2]])
        var tensors: [Tensor] = []
        let places = [operands.query, operands.key, operands.value, operands.keyOnce].map { view -> Int? in
            guard let tensor = view?.tensor else { return nil }
            if let known = tensors.firstIndex(where: { $0.beginsWhere(tensor) }) { return known }
            tensors.append(tensor)
            return tensors.count - 1
        }
        return record([flat], from: tensors.map(\.edge)) { gradients, sink in
            guard let gradient = gradients[0] else { return }
            // The views of a tensor either cover it once, and are written, or overlap or leave gaps, and are added to zeros.
            let views = [operands.query, operands.key, operands.value, operands.keyOnce]
            let covered = views.reduce(0) { $0 + ($1.map { $0.heads * $0.width } ?? 0) }
            let adds = covered != tensors.reduce(0) { $0 + $1.shape[-1] }
            let buffers = tensors.map { backend.makeTensor($0.shape, adds ? .f32 : activation) }
            if adds { for buffer in buffers { buffer.fillWithZeros() } }
            let targets = AttentionOperands(
                query: operands.query.inside(buffers[places[0]!]), key: operands.key.inside(buffers[places[1]!]),
                keyOnce: operands.keyOnce?.inside(buffers[places[3]!]),
                value: operands.value.inside(buffers[places[2]!]))
            backend.attentionBackward(
                operands, parameters, output: output, logSumExp: logSumExp, gradient: gradient, into: targets,
                adds: adds)
            if let rotary {
                for view in rotatedViews(targets, width: rotary.width) {
                    backend.rotate(
                        view, cosine: rotary.cosine, sine: rotary.inverseSine, isInterleaved: rotary.isInterleaved)
                }
            }
            for (index, buffer) in buffers.enumerated() { sink.give(buffer, to: index) }
        }[0]
    }

    private func rotatedViews(_ operands: AttentionOperands, width: Int) -> [HeadsView] {
        if let once = operands.keyOnce {
            precondition(once.width == width, "rotary width \(width) for a key of \(once.width)")
            return [operands.query.elements(from: operands.query.width - width, count: width), once]
        }
        let (query, key) = (
            operands.query.elements(from: 0, count: width), operands.key.elements(from: 0, count: width)
        )
        return query.followed(by: key).map { [$0] } ?? [query, key]
    }
}

extension HeadsView {
    /// A part of each head.
    func elements(from first: Int, count: Int) -> HeadsView {
        precondition(first >= 0 && first + count <= width, "elements \(first) + \(count) of \(width)")
        var result = self
        result.offset += first
        result.width = count
        return result
    }
}
