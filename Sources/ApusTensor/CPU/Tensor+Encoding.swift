import CApusKernels

extension Tensor {
    /// A float32 tensor as another dtype that weights have: bf16 and f16 round to nearest even; Q8_0, Q4_0, Q4_1 and Q4_K
    /// search each block for the least squared error.
    ///
    /// Precondition: contiguous float32. Elements are finite; of f16, those beyond its range become infinite.
    /// - Throws: ``TensorError`` when the dtype is another, or rows are no whole number of its blocks.
    public func encoded(as dtype: DType, backend: CPUBackend) throws -> Tensor {
        precondition(self.dtype == .f32 && isContiguous, "encoding of \(self.dtype) \(shape)")
        if dtype == .f32 { return self }
        guard let type = dtype.kernelType, dtype != .q6_K else {
            throw TensorError.dtype(
                operation: "encoding", expected: "f32, bf16, f16, q8_0, q4_0, q4_1 or q4_K", found: dtype)
        }
        let width = shape.rank == 0 ? 1 : shape[-1]
        guard width % dtype.blockSize == 0 else {
            throw TensorError.shape(
                operation: "encoding as \(dtype)", expected: "rows of a multiple of \(dtype.blockSize)",
                found: shape.description)
        }
        let result = Tensor(uninitialized: shape, dtype: dtype)
        let rows = Int64(width == 0 ? 0 : count / width)
        switch dtype {
        case .bf16, .f16:
            apus_convert(
                backend.pool, rows, Int64(width), APUS_FLOAT_F32, rawPointer, Int64(width),
                dtype == .bf16 ? APUS_FLOAT_BF16 : APUS_FLOAT_F16, result.rawPointer, Int64(width))
        default:
            let status = apus_encode(
                backend.pool, type, pointer(as: Float.self), rows, Int64(width), result.rawPointer)
            precondition(status == 0, "\(dtype) has no encoder")
        }
        withExtendedLifetime(storage) {}
        return result
    }
}
