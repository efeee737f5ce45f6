import ApusLayers
import ApusTensor

/// Grouped-tied attention in its decode form: the cached state of a KV head is its value and, but for the last elements, its
/// key; the rest of the key is one rotated key for all heads.
///
/// Source: "Hardware-Efficient Attention for Fast Decoding" (arXiv 2505.21487), section 3.3.1. Scale 1/sqrt(d_h).
public struct TiedAttention: DecodeAttention {
    let layer: Int
    let query: LinearTerm
    let state: LinearTerm
    let rotaryKey: LinearTerm
    let geometry: CacheGeometry
    let parameters: AttentionParameters
    let backend: any Backend

    /// A layer from its projections.
    /// - Parameters:
    ///   - layer: its index in the cache.
    ///   - query: to h_q heads of [content | RoPE].
    ///   - state: to h_kv heads of [key and value | value only].
    ///   - rotaryKey: to the RoPE key.
    ///   - geometry: of ``CacheGeometry/gta(queryHeads:kvHeads:headWidth:ropeWidth:)``.
    public init(
        layer: Int, query: LinearTerm, state: LinearTerm, rotaryKey: LinearTerm, geometry: CacheGeometry,
        parameters: AttentionParameters, backend: any Backend
    ) {
        self.layer = layer
        self.query = query
        self.state = state
        self.rotaryKey = rotaryKey
        self.geometry = geometry
        self.parameters = parameters
        self.backend = backend
    }

    /// See ``DecodeAttention/callAsFunction(_:_:)``.
    public func callAsFunction(_ x: Tensor, _ step: AttentionStep) -> Tensor {
        let tokens = x.shape[0]
        let projected = backend.linear(x, [query, state, rotaryKey])
        let q = projected[0].reshaped([tokens, geometry.queryHeads, geometry.queryWidth])
        let tied = projected[1].reshaped([tokens, geometry.groups, geometry.outputWidth])
        let key = projected[2].reshaped([tokens, 1, geometry.key])
        step.rotary.rotate(q.columns(geometry.shared..<geometry.queryWidth), backend)
        step.rotary.rotate(key, backend)
        step.cache.append(
            layer: layer, batch: step.batch, shared: tied.columns(0..<geometry.shared), key: key,
            value: tied.columns(geometry.shared..<geometry.outputWidth))
        let attended = step.cache.attend(q, layer: layer, batch: step.batch, parameters: parameters).output
        return attended.reshaped([tokens, geometry.queryHeads * geometry.outputWidth])
    }
}
