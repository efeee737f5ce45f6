import CApusKernels

extension Tensor {
    /// The elements as float32, row-major: the tensor itself where they already are, otherwise an exact copy.
    /// - Throws: ``TensorError/dtype(operation:expected:found:)`` for integers, bool and float64.
    public func float32() throws -> Tensor {
        if dtype == .f32 && isContiguous { return self }
        guard let type = dtype.kernelType, isContiguous else {
            throw TensorError.dtype(operation: "float32", expected: "a contiguous float or packed tensor", found: dtype)
        }
        let result = Tensor(uninitialized: shape)
        apus_dequantize(type, rawPointer, Int64(count), result.pointer(as: Float.self))
        withExtendedLifetime(storage) {}
        return result
    }
}
