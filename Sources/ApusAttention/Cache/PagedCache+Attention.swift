import ApusTensor
import CApusKernels

/// What attention returns.
public struct AttentionResult: Sendable {
    /// Float32 [tokens, query heads, shared + value].
    public let output: Tensor
    /// Float32 [tokens, query heads]: natural logarithm of each row's softmax denominator, sinks included. With it,
    /// results over disjoint parts of a sequence merge (``merged(with:backend:)``).
    public let logSumExp: Tensor

    /// A result from its two tensors.
    public init(output: Tensor, logSumExp: Tensor) {
        self.output = output
        self.logSumExp = logSumExp
    }
}

extension PagedCache {
    /// Writes a step's new tokens into one layer. Parts are float32 [tokens, groups, width], [tokens, 1, width] or
    /// [tokens, width] for a key kept once; nil where the geometry's width is zero. Rounds to the layout's dtypes.
    ///
    /// Precondition: the shapes fit; the last axis is contiguous.
    public func append(layer: Int, batch: CacheBatch, shared: Tensor?, key: Tensor?, value: Tensor?) {
        let geometry = geometries[layer]
        let keyGroups = geometry.keyKept == .once ? 1 : geometry.groups
        let shared = rows(shared, "shared", batch.tokens, geometry.groups, geometry.shared)
        let key = rows(key, "key", batch.tokens, keyGroups, geometry.key)
        let value = rows(value, "value", batch.tokens, geometry.groups, geometry.value)
        withExtendedLifetime((shared.tensor, key.tensor, value.tensor)) {
            batch.withKernelBatch { kernelBatch in
                withUnsafePointer(to: kernelLayouts[layer]) { layout in
                    apus_cache_append(
                        backend.pool, layout, kernelBatch, memory.pages(ofLayer: layer), shared.rows, key.rows,
                        value.rows)
                }
            }
        }
    }

    /// Attention of a step's queries over one layer, whose new tokens have been appended.
    ///
    /// Query i of a sequence's n new tokens stands at position `length - n + i`. A row's result depends on its own query
    /// and sequence alone, to the last bit: not on the batch, on how a prompt is cut into steps, on pages or on threads.
    /// - Parameter query: float32 [tokens, query heads, shared + key], last axis contiguous.
    public func attend(
        _ query: Tensor, layer: Int, batch: CacheBatch, parameters: AttentionParameters
    ) -> AttentionResult {
        let geometry = geometries[layer]
        precondition(
            query.dtype == .f32 && query.shape == [batch.tokens, geometry.queryHeads, geometry.queryWidth]
                && (query.strides[-1] == 1 || geometry.queryWidth == 1),
            "attention: expected float32 queries [\(batch.tokens), \(geometry.queryHeads), \(geometry.queryWidth)], found "
                + "\(query.dtype) \(query.shape)")
        precondition(
            parameters.sinks == nil || parameters.sinks!.count == geometry.queryHeads,
            "attention: expected \(geometry.queryHeads) sinks")
        precondition((parameters.window ?? 1) >= 1, "attention: a window holds at least one token")
        let output = Tensor(uninitialized: [batch.tokens, geometry.queryHeads, geometry.outputWidth])
        let logSumExp = Tensor(uninitialized: [batch.tokens, geometry.queryHeads])
        withExtendedLifetime((query.storage, output.storage, logSumExp.storage)) {
            parameters.withKernelParameters { parameters in
                batch.withKernelBatch { kernelBatch in
                    withUnsafePointer(to: kernelLayouts[layer]) { layout in
                        let workspace = Storage(
                            byteCount: apus_attend_workspace(backend.pool, layout, kernelBatch, parameters))
                        apus_attend(
                            backend.pool, layout, kernelBatch, parameters, memory.pages(ofLayer: layer),
                            query.pointer(as: Float.self), Int64(query.strides[0]), Int64(query.strides[1]),
                            apus_attention_rows(
                                base: output.pointer(as: Float.self), token_stride: Int64(output.strides[0]),
                                head_stride: Int64(output.strides[1])),
                            logSumExp.pointer(as: Float.self), workspace.base)
                    }
                }
            }
        }
        return AttentionResult(output: output, logSumExp: logSumExp)
    }

    private func rows(
        _ tensor: Tensor?, _ part: String, _ tokens: Int, _ groups: Int, _ width: Int
    ) -> (rows: apus_cache_rows, tensor: Storage?) {
        guard width > 0 else { return (apus_cache_rows(base: nil, token_stride: 0, group_stride: 0), nil) }
        guard let tensor else { preconditionFailure("cache: the \(part) part has width \(width) but was not given") }
        let isFlat = tensor.shape.rank == 2 && groups == 1
        precondition(
            tensor.dtype == .f32
                && (isFlat ? tensor.shape == [tokens, width] : tensor.shape == [tokens, groups, width])
                && (tensor.strides[-1] == 1 || width == 1),
            "cache: \(part): expected float32 [\(tokens), \(groups), \(width)], found \(tensor.dtype) \(tensor.shape)")
        let rows = apus_cache_rows(
            base: tensor.pointer(as: Float.self), token_stride: Int64(tensor.strides[0]),
            group_stride: isFlat ? 0 : Int64(tensor.strides[1]))
        return (rows, tensor.storage)
    }
}

extension AttentionResult {
    /// Attention over the union of two disjoint sets of keys, from the attention over each.
    ///
    /// Precondition: equal shapes. At most one of the two counts the sinks.
    public func merged(with other: AttentionResult, backend: CPUBackend) -> AttentionResult {
        precondition(output.shape == other.output.shape && logSumExp.shape == other.logSumExp.shape)
        let merged = AttentionResult(output: output.copied(), logSumExp: logSumExp.copied())
        other.merge(into: merged.output, merged.logSumExp, backend: backend)
        return merged
    }
}

extension AttentionResult {
    /// Makes `output` [rows, heads, width] and `logSumExp` [rows, heads], both contiguous, the attention over the union of
    /// their keys and this result's. Rows whose log-sum-exp is -infinity have seen no key yet.
    func merge(into output: Tensor, _ logSumExp: Tensor, backend: CPUBackend) {
        precondition(
            output.shape == self.output.shape && logSumExp.shape == self.logSumExp.shape && output.isContiguous
                && logSumExp.isContiguous)
        guard logSumExp.count > 0 else { return }
        let width = Int64(output.shape[-1])
        apus_attention_merge(
            backend.pool, Int64(logSumExp.count), width, output.pointer(as: Float.self), width,
            logSumExp.pointer(as: Float.self), self.output.pointer(as: Float.self), width,
            self.logSumExp.pointer(as: Float.self))
        withExtendedLifetime((self, output, logSumExp)) {}
    }
}

extension Tensor {
    /// A contiguous float32 copy in storage of its own.
    fileprivate func copied() -> Tensor {
        let copy = Tensor(uninitialized: shape)
        withElements(of: Float.self) { source in
            copy.withMutableElements(of: Float.self) { _ = $0.update(from: source) }
        }
        return copy
    }
}

extension AttentionParameters {
    /// Calls `body` with the parameters as kernels read them.
    fileprivate func withKernelParameters<R>(_ body: (UnsafePointer<apus_attention_parameters>) -> R) -> R {
        func call(_ sinks: UnsafePointer<Float>?) -> R {
            var parameters = apus_attention_parameters(
                scale: scale, causal: causal ? 1 : 0, window: Int64(window ?? 0), softcap: softcap ?? 0, sinks: sinks)
            return body(&parameters)
        }
        guard let sinks else { return call(nil) }
        return sinks.withUnsafeBufferPointer { call($0.baseAddress) }
    }
}
