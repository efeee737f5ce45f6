import ApusTensor

extension Tensor {
    /// Throws unless the tensor has the shape and dtype that a file's header already announces.
    func requireAnnounced(file: String, name: String, shape: Shape, dtype: DType) throws {
        guard self.shape == shape, isContiguous else {
            throw ModelFileError.tensorShape(
                file: file, tensor: name, expected: "row-major \(shape)",
                found: "\(self.shape) with strides \(strides)")
        }
        guard self.dtype == dtype else {
            throw ModelFileError.tensorDType(
                file: file, tensor: name, expected: dtype.rawValue, found: self.dtype.rawValue)
        }
    }

    /// Calls `body` with the bytes of a contiguous tensor.
    func withContiguousBytes<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
        precondition(isContiguous)
        defer { withExtendedLifetime(storage) {} }
        return try body(UnsafeRawBufferPointer(start: rawPointer, count: byteCount))
    }
}
