import ApusLayers
import ApusTensor

/// Cuts the up-projection of a latent head, [heads · (content + value), latent width], into what the two forms of latent
/// attention multiply by.
struct UpProjections {
    let contentWidth: Int
    let valueWidth: Int
    let heads: Int
    let backend: any Backend

    init(_ widths: LatentConfiguration, headsPerGroup: Int, backend: any Backend) {
        contentWidth = widths.contentWidth
        valueWidth = widths.valueWidth
        heads = headsPerGroup
        self.backend = backend
    }

    private var headRows: Int { contentWidth + valueWidth }

    /// The whole projection, with the values' biases.
    func whole(_ weight: Tensor, _ bias: Tensor?) throws -> LinearTerm {
        LinearTerm(try backend.prepare(weight), bias: bias.map(withoutKeys))
    }

    private func withoutKeys(_ bias: Tensor) -> Tensor {
        var values = bias.floats
        for head in 0..<heads {
            for index in head * headRows..<head * headRows + contentWidth { values[index] = 0 }
        }
        return Tensor(values, shape: bias.shape)
    }

    /// Of each head, W_UK transposed: [latent width, content width]. Packed weights are expanded for it, since blocks cannot
    /// be transposed.
    func keys(_ weight: Tensor) throws -> [LinearTerm] {
        try (0..<heads).map { head in
            let rows = weight.rows(head * headRows..<head * headRows + contentWidth)
            return LinearTerm(try backend.prepare(try rows.transposedCopy()))
        }
    }

    /// Of each head, W_UV: [value width, latent width].
    func values(_ weight: Tensor, _ bias: Tensor?) throws -> [LinearTerm] {
        try (0..<heads).map { head in
            let rows = head * headRows + contentWidth..<(head + 1) * headRows
            return LinearTerm(try backend.prepare(weight.rows(rows)), bias: bias?.rows(rows))
        }
    }
}

extension Tensor {
    /// The transpose of a contiguous matrix in memory of its own; packed dtypes become float32.
    /// - Throws: ``TensorError/dtype(operation:expected:found:)`` for dtypes that are no weights'.
    func transposedCopy() throws -> Tensor {
        let source = dtype == .bf16 || dtype == .f16 ? self : try float32()
        let result = Tensor(uninitialized: [shape[1], shape[0]], dtype: source.dtype)
        func transpose<T>(_: T.Type) {
            let (rows, columns) = (shape[0], shape[1])
            source.withElements(of: T.self) { from in
                result.withMutableElements(of: T.self) { to in
                    for row in 0..<rows {
                        for column in 0..<columns { to[column * rows + row] = from[row * columns + column] }
                    }
                }
            }
        }
        if source.dtype == .f32 { transpose(Float.self) } else { transpose(UInt16.self) }
        return result
    }

    /// Copies a view of the same shape [tokens, heads, width] into this one, row by row.
    func copyRows(from other: Tensor) {
        precondition(
            dtype == .f32 && other.dtype == .f32 && shape == other.shape && hasContiguousRows
                && other.hasContiguousRows)
        for token in 0..<shape[0] {
            for head in 0..<shape[1] {
                (pointer(as: Float.self) + token * strides[0] + head * strides[1]).update(
                    from: other.pointer(as: Float.self) + token * other.strides[0] + head * other.strides[1],
                    count: shape[2])
            }
        }
        withExtendedLifetime((self, other)) {}
    }
}
