import ApusTensor

/// An affine map `x W^T + b`.
public struct Linear: Sendable {
    /// Weight and bias as the backend wants them.
    public let term: LinearTerm
    private let backend: any Backend

    /// A layer from a weight [outputs, inputs] and a float32 bias [outputs].
    /// - Throws: ``TensorError`` when the weight has no product on this backend.
    public init(weight: Tensor, bias: Tensor? = nil, backend: any Backend) throws {
        self.init(prepared: try backend.prepare(weight), bias: bias, backend: backend)
    }

    /// A layer from a weight that is already prepared (and may be shared).
    public init(prepared: any PreparedWeight, bias: Tensor? = nil, backend: any Backend) {
        term = LinearTerm(prepared, bias: bias)
        self.backend = backend
    }

    /// Width of the output.
    public var outputs: Int { term.weight.outputs }

    /// [.., inputs] to [.., outputs].
    public func callAsFunction(_ x: Tensor) -> Tensor { backend.linear(x, [term])[0] }

    /// Adds the output to `sum`, in place.
    public func callAsFunction(_ x: Tensor, addingTo sum: Tensor) { backend.linear(x, term, addingTo: sum) }
}
