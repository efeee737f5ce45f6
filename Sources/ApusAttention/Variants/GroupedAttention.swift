import ApusLayers
import ApusTensor

/// Grouped-query attention; multi-head and multi-query attention are its ends.
public struct GroupedAttention: DecodeAttention {
    let layer: Int
    let query: LinearTerm
    let key: LinearTerm
    let value: LinearTerm
    let queryNorm: Norm?
    let keyNorm: Norm?
    let geometry: CacheGeometry
    let parameters: AttentionParameters
    let usesSlidingRotary: Bool
    let backend: any Backend

    /// A layer from its projections.
    /// - Parameters:
    ///   - layer: its index in the cache.
    ///   - queryNorm: norm of each query head before rotation (Qwen3).
    ///   - keyNorm: norm of each key head before rotation.
    ///   - usesSlidingRotary: rotates by the step's `slidingRotary` where there is one.
    public init(
        layer: Int, query: LinearTerm, key: LinearTerm, value: LinearTerm, queryNorm: Norm? = nil, keyNorm: Norm? = nil,
        geometry: CacheGeometry, parameters: AttentionParameters, usesSlidingRotary: Bool = false, backend: any Backend
    ) {
        self.layer = layer
        self.query = query
        self.key = key
        self.value = value
        self.queryNorm = queryNorm
        self.keyNorm = keyNorm
        self.geometry = geometry
        self.parameters = parameters
        self.usesSlidingRotary = usesSlidingRotary
        self.backend = backend
    }

    /// See ``DecodeAttention/callAsFunction(_:_:)``.
    public func callAsFunction(_ x: Tensor, _ step: AttentionStep) -> Tensor {
        let projected = backend.linear(x, [query, key, value])
        let tokens = x.shape[0]
        var q = projected[0].reshaped([tokens, geometry.queryHeads, geometry.queryWidth])
        var k = projected[1].reshaped([tokens, geometry.groups, geometry.key])
        let v = projected[2].reshaped([tokens, geometry.groups, geometry.value])
        if let queryNorm { q = queryNorm(q) }
        if let keyNorm { k = keyNorm(k) }
        let rotary = usesSlidingRotary ? step.slidingRotary ?? step.rotary : step.rotary
        rotary.rotate(q, backend)
        rotary.rotate(k, backend)
        step.cache.append(layer: layer, batch: step.batch, shared: nil, key: k, value: v)
        let attended = step.cache.attend(q, layer: layer, batch: step.batch, parameters: parameters).output
        return attended.reshaped([tokens, geometry.queryHeads * geometry.outputWidth])
    }
}
