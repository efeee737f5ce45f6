import ApusTensor

/// The dtype that a conversion gives to a model's matrices.
public enum WeightFormat: String, Sendable, Hashable, CaseIterable {
    /// As the source has them; packed weights become float32 where the target cannot hold them.
    case kept
    case f32, bf16, f16
    case q8_0, q4_0, q4_1
    case q4_K

    /// The formats that quantise, under the names that commands take.
    public static let quantised: [WeightFormat] = [.q8_0, .q4_0, .q4_1, .q4_K]

    /// The dtype; nil where the source decides.
    var dtype: DType? { DType(rawValue: rawValue) }

    /// What a weight becomes in a GGUF file: vectors and routers stay float32, as readers of the format expect; rows that
    /// are no whole number of blocks fall back to smaller blocks, then to float32.
    func ggufType(_ role: TensorRole, shape: Shape, source: DType, isPure: Bool) -> DType {
        if shape.rank < 2 || role.isRouter { return .f32 }
        guard var type = dtype else { return source }
        // The head's errors reach the logits undamped, and its table is read once a token.
        if role.isHead, !isPure, type.isPacked, type != .q8_0 { type = .q8_0 }
        for candidate in [type, type.isPacked ? .q8_0 : type] where shape[-1] % candidate.blockSize == 0 {
            return candidate
        }
        return .f32
    }

    /// What a weight becomes in a safetensors file, which has no packed types. GGUF keeps vectors in float32; where every
    /// element has a place in the matrices' type, they go back to it.
    func safetensorsType(_ tensor: Tensor, matrices: DType, backend: CPUBackend) throws -> DType {
        if let dtype, !dtype.isPacked { return dtype }
        if tensor.dtype.isPacked { return .f32 }
        guard tensor.dtype == .f32, tensor.shape.rank < 2, matrices == .bf16 || matrices == .f16 else {
            return tensor.dtype
        }
        let narrowed = try tensor.encoded(as: matrices, backend: backend).float32()
        return narrowed.floats == tensor.floats ? matrices : .f32
    }
}

extension TensorRole {
    fileprivate var isHead: Bool { self == .head || self == .tokenEmbedding }

    fileprivate var isRouter: Bool {
        if case .layer(_, .router) = self { true } else { false }
    }
}

extension Tensor {
    /// The elements as another dtype that weights have, contiguous: floats round to nearest even, blocks are searched for
    /// the least squared error.
    /// - Throws: ``TensorError``.
    func converted(to dtype: DType, backend: CPUBackend) throws -> Tensor {
        if dtype == self.dtype { return self }
        return try float32().encoded(as: dtype, backend: backend)
    }
}
