/// Operations that record what their gradients need: few and fused, so that a training step is tens of calls a layer.
///
/// The residual stream and everything gradients gather in are float32. With `compute` bf16 the operands of products
/// (normalised rows, attention's and SwiGLU's outputs, weights, and the gradients that meet them) are rounded to bf16; sums
/// stay float32. What products give (queries, keys, values, the halves of SwiGLU, logits) is float32 on the CPU and in the
/// dtype of products on a GPU.
public struct DifferentiableOperations: Sendable {
    /// Where they run.
    public let backend: any DifferentiableBackend
    /// Dtype of the operands of products: float32 or bf16.
    public let compute: DType

    /// Operations on a backend.
    public init(on backend: any DifferentiableBackend = CPUBackend.shared, compute: DType = .f32) {
        precondition(compute == .f32 || compute == .bf16, "products of \(compute)")
        self.backend = backend
        self.compute = compute
    }

    /// Dtype of what products give.
    package var activation: DType { backend.activationType(compute: compute) }
}
