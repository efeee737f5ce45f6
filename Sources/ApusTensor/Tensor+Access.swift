/// Reading and writing elements from Swift: the handle through which the rest of the project touches raw memory.
extension Tensor {
    /// Address of the first element, for kernels. Valid while the tensor (or its storage) is alive.
    public var rawPointer: UnsafeMutableRawPointer { storage.base + byteOffset }

    /// Address of the first element as `T`, for kernels. Precondition: `T` has the dtype's size.
    @inlinable
    public func pointer<T>(as type: T.Type = T.self) -> UnsafeMutablePointer<T> {
        rawPointer.assumingMemoryBound(to: type)
    }

    /// Calls `body` with the elements as a typed buffer. Precondition: contiguous, and `T` has the dtype's size.
    public func withElements<T, R>(of type: T.Type, _ body: (UnsafeBufferPointer<T>) throws -> R) rethrows -> R {
        precondition(isContiguous && MemoryLayout<T>.size == dtype.bytesPerBlock && !dtype.isPacked)
        defer { withExtendedLifetime(storage) {} }
        return try body(UnsafeBufferPointer(start: pointer(as: T.self), count: count))
    }

    /// Calls `body` with the elements as a mutable buffer. Precondition: as ``withElements(of:_:)``, and the storage is
    /// not lent.
    public func withMutableElements<T, R>(
        of type: T.Type, _ body: (UnsafeMutableBufferPointer<T>) throws -> R
    ) rethrows -> R {
        precondition(isContiguous && MemoryLayout<T>.size == dtype.bytesPerBlock && !dtype.isPacked)
        defer { withExtendedLifetime(storage) {} }
        return try body(UnsafeMutableBufferPointer(start: pointer(as: T.self), count: count))
    }

    /// A float32 tensor from values. Precondition: as many values as the shape has elements.
    public init(_ values: [Float], shape: Shape) {
        precondition(values.count == shape.count, "\(values.count) values for shape \(shape)")
        self.init(uninitialized: shape, dtype: .f32)
        withMutableElements(of: Float.self) { _ = $0.update(from: values) }
    }

    /// An int32 tensor from values.
    public init(_ values: [Int32], shape: Shape? = nil) {
        self.init(uninitialized: shape ?? [values.count], dtype: .i32)
        precondition(values.count == count, "\(values.count) values for shape \(self.shape)")
        withMutableElements(of: Int32.self) { _ = $0.update(from: values) }
    }

    /// The elements of a float32 tensor, row-major.
    public var floats: [Float] {
        precondition(dtype == .f32, "floats of a \(dtype) tensor")
        return withElements(of: Float.self) { Array($0) }
    }
}

extension Tensor {
    /// A copy of some rows of the first axis, in the order given. Precondition: contiguous, every row inside.
    public func gatheringRows(_ rows: [Int]) -> Tensor {
        precondition(isContiguous && shape.rank >= 1, "gathering rows of \(shape)")
        var extent = shape
        extent[0] = rows.count
        let result = Tensor(uninitialized: extent, dtype: dtype)
        let rowBytes = shape[0] == 0 ? 0 : byteCount / shape[0]
        for (index, row) in rows.enumerated() {
            precondition(row >= 0 && row < shape[0], "row \(row) of \(shape)")
            (result.rawPointer + index * rowBytes).copyMemory(from: rawPointer + row * rowBytes, byteCount: rowBytes)
        }
        return result
    }
}
