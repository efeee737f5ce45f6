import ApusAttention
import ApusLayers
import ApusTensor

/// One layer: attention and feed-forward, each on a normalised copy of the residual stream, in sequence or in parallel.
struct DecoderLayer: Sendable {
    let attention: any DecodeAttention
    let attentionOutput: ResidualOutput
    let feedForward: FeedForward
    let attentionNorm: Norm
    let feedForwardNorm: Norm
    let isParallel: Bool

    /// Adds the layer's two halves to the residual stream `x` [T, hidden], in place: each rank its part of them, which are
    /// summed after each half, or after both where they read the same input.
    func callAsFunction(_ x: Tensor, _ step: AttentionStep, _ ranks: TensorParallel?) {
        let input = attentionNorm(x)
        if isParallel {
            let normed = feedForwardNorm(x)
            ranks?.beginSum(x)
            attentionOutput(attention(input, step), addingTo: x)
            feedForward(normed, addingTo: x)
            ranks?.finishSum(x)
        } else {
            ranks?.beginSum(x)
            attentionOutput(attention(input, step), addingTo: x)
            ranks?.finishSum(x)
            let normed = feedForwardNorm(x)
            ranks?.beginSum(x)
            feedForward(normed, addingTo: x)
            ranks?.finishSum(x)
        }
    }
}

/// The projection with which half a layer adds to the residual stream, times a constant.
struct ResidualOutput: Sendable {
    /// Its bias has the factor in it.
    let linear: Linear
    let scale: Float
    let backend: any Backend

    /// Adds the output for `x` [T, inputs] to `sum`; uses up `x`.
    func callAsFunction(_ x: Tensor, addingTo sum: Tensor) {
        if scale != 1 { backend.scale(x, by: scale) }
        linear(x, addingTo: sum)
    }
}

/// The feed-forward half of a layer.
enum FeedForward: Sendable {
    /// down(silu(gate x) * up x), without biases: one fused product for gate and up.
    case swiglu(gate: any PreparedWeight, up: any PreparedWeight, down: ResidualOutput, backend: any Backend)
    /// down(activation(gate x) * up x).
    case gated(gate: Linear, up: Linear, down: ResidualOutput, activation: ActivationFunction, backend: any Backend)
    /// down(activation(up x)).
    case plain(up: Linear, down: ResidualOutput, activation: ActivationFunction, backend: any Backend)
    /// A mixture of experts.
    case experts(MixtureOfExperts)

    /// Adds the output for `x` [T, hidden] to `sum`.
    func callAsFunction(_ x: Tensor, addingTo sum: Tensor) {
        switch self {
        case .swiglu(let gate, let up, let down, let backend):
            down(backend.linearSwiGLU(x, gate: gate, up: up), addingTo: sum)
        case .gated(let gate, let up, let down, let activation, let backend):
            let inner = gate(x)
            backend.activateInPlace(inner, activation, times: up(x))
            down(inner, addingTo: sum)
        case .plain(let up, let down, let activation, let backend):
            let inner = up(x)
            backend.activateInPlace(inner, activation, times: nil)
            down(inner, addingTo: sum)
        case .experts(let experts): experts(x, addingTo: sum)
        }
    }
}
