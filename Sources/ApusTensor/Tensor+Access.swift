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

    /// A float64 tensor of one element.
    public init(_ value: Double) {
        self.init(uninitialized: [1], dtype: .f64)
        withMutableElements(of: Double.self) { $0[0] = value }
    }

    /// An int32 tensor from values.
    public init(_ values: [Int32], shape: Shape? = nil) {
        self.init(uninitialized: shape ?? [values.count], dtype: .i32)
        precondition(values.count == count, "\(values.count) values for shape \(self.shape)")
        withMutableElements(of: Int32.self) { _ = $0.update(from: values) }
    }

    /// The elements of a float32 tensor, row-major. Of one on a GPU they are copied, after the work queued for them is done;
    /// NaN where that work has failed, which the backend then says (`check`).
    public var floats: [Float] {
        precondition(dtype == .f32, "floats of a \(dtype) tensor")
        guard device == .cpu else { return downloaded(failing: .nan) }
        return withElements(of: Float.self) { Array($0) }
    }

    /// The elements of a float64 tensor, as ``floats``.
    public var doubles: [Double] {
        precondition(dtype == .f64, "doubles of a \(dtype) tensor")
        guard device == .cpu else { return downloaded(failing: .nan) }
        return withElements(of: Double.self) { Array($0) }
    }

    private func downloaded<Element: BitwiseCopyable>(failing value: Element) -> [Element] {
        precondition(isContiguous, "elements of a view")
        let elements = storage.deviceMemory.flatMap {
            try? $0.stream.download($0, at: byteOffset, count: count, as: Element.self)
        }
        return elements ?? [Element](repeating: value, count: count)
    }

    /// Whether two tensors begin at the same byte of the same memory.
    func beginsWhere(_ other: Tensor) -> Bool { storage === other.storage && byteOffset == other.byteOffset }

    /// Contiguous tensors that lie one after the other in one memory, as one along the first axis; nil where they do not.
    static func joined(_ parts: [Tensor]) -> Tensor? {
        guard let first = parts.first, parts.count > 1 else { return parts.first }
        var end = first.byteOffset
        var shape = first.shape
        shape[0] = 0
        for part in parts {
            var rest = part.shape
            rest[0] = 0
            var own = shape
            own[0] = 0
            guard part.storage === first.storage, part.byteOffset == end, part.dtype == first.dtype, rest == own,
                part.isContiguous
            else { return nil }
            shape[0] += part.shape[0]
            end += part.byteCount
        }
        return Tensor(storage: first.storage, byteOffset: first.byteOffset, shape: shape, dtype: first.dtype)
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
