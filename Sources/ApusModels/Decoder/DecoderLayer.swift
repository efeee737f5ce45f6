import ApusAttention
import ApusLayers
import ApusTensor

/// One layer: attention and feed-forward, each on a normalised copy of the residual stream, in sequence or in parallel.
struct DecoderLayer: Sendable {
    let attention: SelfAttention
    let feedForward: FeedForward
    let attentionNorm: Norm
    let feedForwardNorm: Norm
    let isParallel: Bool

    /// Adds the layer's two halves to the residual stream `x` [T, hidden], in place.
    func callAsFunction(_ x: Tensor, _ step: DecoderStep) {
        if isParallel {
            let normed = feedForwardNorm(x)
            attention(attentionNorm(x), addingTo: x, step)
            feedForward(normed, addingTo: x)
        } else {
            attention(attentionNorm(x), addingTo: x, step)
            feedForward(feedForwardNorm(x), addingTo: x)
        }
    }
}

/// Grouped-query self-attention (MHA and MQA are its ends) over the paged cache.
struct SelfAttention: Sendable {
    let index: Int
    let query: LinearTerm
    let key: LinearTerm
    let value: LinearTerm
    let queryNorm: Norm?
    let keyNorm: Norm?
    let output: Linear
    let geometry: CacheGeometry
    let parameters: AttentionParameters
    let rotary: RotaryConfiguration
    let usesSlidingRotary: Bool
    let backend: any Backend

    /// Adds the attention of `x` [T, hidden] to `sum`, and appends the tokens' keys and values to the cache.
    func callAsFunction(_ x: Tensor, addingTo sum: Tensor, _ step: DecoderStep) {
        let projected = backend.linear(x, [query, key, value])
        let tokens = x.shape[0]
        var q = projected[0].reshaped([tokens, geometry.queryHeads, geometry.queryWidth])
        var k = projected[1].reshaped([tokens, geometry.groups, geometry.key])
        let v = projected[2].reshaped([tokens, geometry.groups, geometry.value])
        if let queryNorm { q = queryNorm(q) }
        if let keyNorm { k = keyNorm(k) }
        let tables = usesSlidingRotary ? step.rotary.sliding ?? step.rotary.full : step.rotary.full
        for heads in [q, k] {
            backend.rope(
                heads, rotaryWidth: rotary.width, interleaved: rotary.style == .interleaved, cosine: tables.cosine,
                sine: tables.sine)
        }
        step.cache.append(layer: index, batch: step.batch, shared: nil, key: k, value: v)
        let attended = step.cache.attend(q, layer: index, batch: step.batch, parameters: parameters).output
        output(attended.reshaped([tokens, geometry.queryHeads * geometry.outputWidth]), addingTo: sum)
    }
}

/// The feed-forward half of a layer.
enum FeedForward: Sendable {
    /// down(silu(gate x) * up x), without biases: one fused product for gate and up.
    case swiglu(gate: any PreparedWeight, up: any PreparedWeight, down: Linear, backend: any Backend)
    /// down(activation(gate x) * up x).
    case gated(gate: Linear, up: Linear, down: Linear, activation: ActivationFunction, backend: any Backend)
    /// down(activation(up x)).
    case plain(up: Linear, down: Linear, activation: ActivationFunction, backend: any Backend)

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
        }
    }
}
