/// A multi-dimensional array: shape, strides, dtype, and reference-counted storage.
///
/// A value: copying it shares the storage. Packed dtypes (GGUF blocks) are always row-major, and their last extent is a
/// multiple of the block. Operations live in extensions and on ``Backend``.
public struct Tensor: Sendable {
    /// Bytes it reads.
    public let storage: Storage
    /// Where the first element stands in the storage, in bytes.
    public let byteOffset: Int
    /// Extents, outermost first.
    public let shape: Shape
    /// Distance between neighbours on each axis, in elements.
    public let strides: Shape
    /// Element type.
    public let dtype: DType
    /// The operation it came from, where gradients are recorded.
    package internal(set) var edge: GradientEdge?

    /// A row-major tensor over existing storage. Precondition: the storage is large enough.
    public init(storage: Storage, byteOffset: Int = 0, shape: Shape, dtype: DType) {
        guard let bytes = Tensor.byteCount(shape: shape, dtype: dtype) else {
            preconditionFailure("shape \(shape) does not fit blocks of \(dtype)")
        }
        precondition(byteOffset >= 0 && byteOffset + bytes <= storage.byteCount, "tensor exceeds its storage")
        self.init(
            unchecked: storage, byteOffset: byteOffset, shape: shape, strides: shape.rowMajorStrides, dtype: dtype)
    }

    /// An uninitialised row-major tensor.
    public init(uninitialized shape: Shape, dtype: DType = .f32) {
        guard let bytes = Tensor.byteCount(shape: shape, dtype: dtype) else {
            preconditionFailure("shape \(shape) does not fit blocks of \(dtype)")
        }
        self.init(
            unchecked: Storage(byteCount: bytes), byteOffset: 0, shape: shape, strides: shape.rowMajorStrides,
            dtype: dtype)
    }

    private init(unchecked storage: Storage, byteOffset: Int, shape: Shape, strides: Shape, dtype: DType) {
        self.storage = storage
        self.byteOffset = byteOffset
        self.shape = shape
        self.strides = strides
        self.dtype = dtype
    }

    /// Bytes of a row-major tensor, or nil when a row is no whole number of blocks or the size overflows.
    public static func byteCount(shape: Shape, dtype: DType) -> Int? {
        var rows = 1
        for axis in 0..<max(shape.rank - 1, 0) {
            let (product, overflow) = rows.multipliedReportingOverflow(by: shape[axis])
            if overflow { return nil }
            rows = product
        }
        let row = shape.rank == 0 ? 1 : shape[-1]
        guard let rowBytes = dtype.byteCount(elements: row) else { return nil }
        let (bytes, overflow) = rows.multipliedReportingOverflow(by: rowBytes)
        return overflow ? nil : bytes
    }

    /// Where its bytes lie.
    public var device: Device { storage.device }

    /// Number of elements.
    public var count: Int { shape.count }

    /// Size in bytes of the elements (row-major).
    public var byteCount: Int { Tensor.byteCount(shape: shape, dtype: dtype)! }

    /// Whether the elements lie in row-major order without gaps.
    public var isContiguous: Bool {
        var step = 1
        for axis in stride(from: shape.rank - 1, through: 0, by: -1) {
            if shape[axis] != 1 && strides[axis] != step { return false }
            step *= shape[axis]
        }
        return true
    }

    /// The same elements under another shape. Precondition: contiguous, same count.
    public func reshaped(_ newShape: Shape) -> Tensor {
        precondition(isContiguous && newShape.count == count, "cannot view \(shape) as \(newShape)")
        return Tensor(
            unchecked: storage, byteOffset: byteOffset, shape: newShape, strides: newShape.rowMajorStrides, dtype: dtype
        )
    }

    /// Rows `range` of the first axis, without a copy. Precondition: contiguous, rank >= 1; for packed dtypes rank >= 2.
    public func rows(_ range: Range<Int>) -> Tensor {
        precondition(isContiguous && range.lowerBound >= 0 && range.upperBound <= shape[0], "rows \(range) of \(shape)")
        var part = shape
        part[0] = range.count
        let rowBytes = shape[0] == 0 ? 0 : byteCount / shape[0]
        return Tensor(
            unchecked: storage, byteOffset: byteOffset + range.lowerBound * rowBytes, shape: part,
            strides: part.rowMajorStrides, dtype: dtype)
    }

    /// Elements `range` of the last axis, without a copy. Precondition: rank >= 1, not packed.
    public func columns(_ range: Range<Int>) -> Tensor {
        precondition(
            !dtype.isPacked && range.lowerBound >= 0 && range.upperBound <= shape[-1], "columns \(range) of \(shape)")
        var part = shape
        part[-1] = range.count
        return Tensor(
            unchecked: storage, byteOffset: byteOffset + range.lowerBound * strides[-1] * dtype.bytesPerBlock,
            shape: part, strides: strides, dtype: dtype)
    }

    /// The last axis cut in two: [.., a * b] as [.., a, b], without a copy. Precondition: not packed, `b` divides it.
    public func splittingLastAxis(by width: Int) -> Tensor {
        precondition(!dtype.isPacked && width > 0 && shape[-1] % width == 0, "\(shape) in parts of \(width)")
        let extents = shape.dims.dropLast() + [shape[-1] / width, width]
        let steps = strides.dims.dropLast() + [strides[-1] * width, strides[-1]]
        return Tensor(
            unchecked: storage, byteOffset: byteOffset, shape: Shape(extents), strides: Shape(steps), dtype: dtype)
    }

    /// Whether neighbours on the last axis are neighbours in memory.
    public var hasContiguousRows: Bool { shape.rank >= 1 && (strides[-1] == 1 || shape[-1] <= 1) }
}
