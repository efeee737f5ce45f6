import ApusSynchronization

/// A place in a GPU's memory and the type of what lies there.
package struct CUDAArray: Sendable, Hashable {
    /// Address of the first element.
    package var address: UInt64
    /// Float32 or bf16, where nothing else is said.
    package var dtype: DType

    /// Elements from an address on.
    package init(_ address: UInt64, _ dtype: DType) {
        self.address = address
        self.dtype = dtype
    }

    /// What lies `elements` further on.
    package func advanced(by elements: Int) -> CUDAArray {
        CUDAArray(address + UInt64(elements * dtype.bytesPerBlock), dtype)
    }
}

/// The tensor kernels on one stream, by address: what ``CUDABackend`` and whole decoders on a GPU queue.
///
/// Every function returns at once; memory must live until the stream is past the work, which that of a ``CUDABuffer`` of
/// the same stream does by itself. Extents that the kernels do not take are `CUDAError.launch`. Sums have a fixed order:
/// results are the same in every run.
package final class CUDAOperations: Sendable {
    /// What everything is queued on.
    package let stream: CUDAStream
    /// Matrix products on the stream.
    package let products: CUDAProducts
    private let kernels = Locked<[String: CUDAKernel]>([:])

    /// Threads of a block of the kernels that pass over elements.
    static let threads = 256

    /// Operations on a stream. Throws ``CUDAError/library(_:)`` without cuBLASLt.
    /// - Parameter measuresProducts: see ``CUDAProducts/init(stream:workspaceBytes:measures:)``.
    package init(stream: CUDAStream, measuresProducts: Bool = false) throws {
        self.stream = stream
        products = try CUDAProducts(stream: stream, measures: measuresProducts)
    }

    /// The GPU.
    package var device: CUDADevice { stream.device }

    /// A kernel of a file, found once by its name, which is no other kernel's, and by the macro that chooses its variant.
    func kernel(
        _ name: String, of file: StaticString, variant: (macro: String, value: Int)? = nil
    ) throws -> CUDAKernel {
        let key = variant.map { "\(name) \($0.value)" } ?? name
        return try kernels.withLock { kernels in
            if let known = kernels[key] { return known }
            let defines = variant.map { [$0.macro: String($0.value)] } ?? [:]
            let found = try device.modules.kernel(name, in: KernelSources.source(file.description, defines: defines))
            kernels[key] = found
            return found
        }
    }

    /// Blocks that pass over so many parts, one a thread and round: at most 16 a multiprocessor.
    func blocks(for parts: Int) -> CUDAExtent {
        CUDAExtent(max(1, min((parts + Self.threads - 1) / Self.threads, 16 * device.multiprocessorCount)))
    }

    /// Queues a kernel that passes over `parts`, unless there are none.
    /// - Parameter attributes: ``CUDALaunchAttribute/overlapsPredecessor`` for kernels that wait for their predecessor.
    func pass(
        _ name: String, of file: StaticString, parts: Int, attributes: [CUDALaunchAttribute] = [],
        _ arguments: [CUDAArgument]
    ) throws {
        guard parts > 0 else { return }
        guard parts < Int(Int32.max) else { throw CUDAError.launch(kernel: name, problem: "\(parts) parts") }
        try kernel(name, of: file).launch(
            grid: blocks(for: parts), block: CUDAExtent(Self.threads), attributes: attributes, on: stream,
            arguments: arguments)
    }

    /// Elements that a thread takes at a time: see `Vector` of rows.cuh.
    static func vector(_ a: DType, _ b: DType) -> Int { a == .bf16 && b == .bf16 ? 8 : 4 }

    /// Scratch memory that lives as long as the work queued on it.
    func scratch(byteCount: Int) throws -> CUDABuffer { try CUDABuffer(byteCount: byteCount, stream: stream) }
}

// MARK: Passes over elements

extension CUDAOperations {
    /// `result = x`, rounded to nearest even where it is narrower.
    package func convert(_ x: CUDAArray, to result: CUDAArray, count: Int) throws {
        if x.dtype == result.dtype {
            return try copy(byteCount: count * x.dtype.bytesPerBlock, from: x.address, to: result.address)
        }
        try pass(
            "convert_\(x.dtype)_\(result.dtype)", of: "elementwise.cu", parts: (count + 3) / 4,
            [.value(x.address), .value(result.address), .value(Int64(count))])
    }

    /// `sum += x`: float32 or bf16 to float32, bf16 to bf16.
    package func add(_ x: CUDAArray, to sum: CUDAArray, count: Int) throws {
        let vector = Self.vector(x.dtype, sum.dtype)
        try pass(
            "add_\(x.dtype)_\(sum.dtype)", of: "elementwise.cu", parts: (count + vector - 1) / vector,
            [.value(x.address), .value(sum.address), .value(Int64(count))])
    }

    /// `x *= factor`.
    package func scale(_ x: CUDAArray, by factor: Float, count: Int) throws {
        let vector = Self.vector(x.dtype, x.dtype)
        try pass(
            "scale_\(x.dtype)", of: "elementwise.cu", parts: (count + vector - 1) / vector,
            [.value(x.address), .value(factor), .value(UInt64(0)), .value(Int64(count))])
    }

    /// Float32 rows into those of another matrix, at distances in elements; with a distance of 0 the same row into each.
    package func copyRows(
        _ x: UInt64, stride xStride: Int, to result: CUDAArray, stride: Int, rows: Int, columns: Int
    ) throws {
        try pass(
            "copy_rows_f32_\(result.dtype)", of: "elementwise.cu", parts: rows * ((columns + 3) / 4),
            [
                .value(x), .value(Int64(xStride)), .value(result.address), .value(Int64(stride)), .value(Int32(rows)),
                .value(Int32(columns)),
            ])
    }

    /// Float32 matrices `[rows][columns]`, `stride` elements apart, each transposed into bf16, one after the other.
    package func transpose(
        _ x: UInt64, stride: Int, to result: UInt64, matrices: Int, rows: Int, columns: Int
    ) throws {
        let tiles = matrices * ((rows + 31) / 32) * ((columns + 31) / 32)
        try pass(
            "transpose_f32_bf16", of: "elementwise.cu", parts: tiles * Self.threads,
            [
                .value(x), .value(Int64(stride)), .value(result), .value(Int32(matrices)), .value(Int32(rows)),
                .value(Int32(columns)),
            ])
    }

    /// Heads into others of the same width and dtype, over what is there or added to it.
    package func copyHeads(_ x: CUDAHeads, to result: CUDAHeads, tokens: Int, adds: Bool = false) throws {
        try pass(
            "copy_heads_\(x.array.dtype)", of: "elementwise.cu", parts: tokens * x.heads * x.width,
            [
                .value(x.array.address), .value(Int64(x.tokenStride)), .value(Int64(x.headStride)),
                .value(result.array.address), .value(Int64(result.tokenStride)), .value(Int64(result.headStride)),
                .value(Int32(tokens)), .value(Int32(x.heads)), .value(Int32(x.width)), .value(Int32(adds ? 1 : 0)),
            ])
    }

    /// `x = activation(x)`, times `factor` where there is one; float32, in place.
    package func activate(_ x: UInt64, _ activation: ActivationFunction, times factor: UInt64?, count: Int) throws {
        let kind: Int32 =
            switch activation {
            case .silu: 0
            case .gelu: 1
            case .geluTanh: 2
            }
        try pass(
            "activate", of: "elementwise.cu", parts: (count + 3) / 4,
            [.value(x), .value(factor ?? 0), .value(kind), .value(Int64(count))])
    }

    /// `silu(gate) * up`, rows of gate and up `stride` elements apart.
    package func swiglu(
        gate: CUDAArray, up: CUDAArray, stride: Int, to result: CUDAArray, rows: Int, width: Int
    ) throws {
        let vector = Self.vector(gate.dtype, result.dtype)
        try pass(
            "swiglu_forward_\(gate.dtype)_\(result.dtype)", of: "swiglu.cu",
            parts: rows * ((width + vector - 1) / vector), attributes: [.overlapsPredecessor],
            [
                .value(gate.address), .value(up.address), .value(result.address), .value(Int32(rows)),
                .value(Int32(width)), .value(Int64(stride)),
            ])
    }

    /// Gradients of gate and up, whose rows are `gradientStride` apart.
    package func swigluBackward(
        gate: CUDAArray, up: CUDAArray, stride: Int, gradient: CUDAArray, gateGradient: CUDAArray,
        upGradient: CUDAArray, gradientStride: Int, rows: Int, width: Int
    ) throws {
        let vector = Self.vector(gradient.dtype, gateGradient.dtype)
        try pass(
            "swiglu_backward_\(gate.dtype)_\(gradient.dtype)_\(gateGradient.dtype)", of: "swiglu.cu",
            parts: rows * ((width + vector - 1) / vector), attributes: [.overlapsPredecessor],
            [
                .value(gate.address), .value(up.address), .value(gradient.address), .value(gateGradient.address),
                .value(upGradient.address), .value(Int32(rows)), .value(Int32(width)), .value(Int64(stride)),
                .value(Int64(gradientStride)),
            ])
    }

    /// Rotates `2 pairs` elements of each head in place, the first of them at `x`; strides in elements.
    /// - Parameters:
    ///   - cosine: float32 [tokens, pairs].
    ///   - sine: as `cosine`.
    package func rotate(
        _ x: CUDAArray, cosine: UInt64, sine: UInt64, tokens: Int, heads: Int, pairs: Int, tokenStride: Int,
        headStride: Int, isInterleaved: Bool
    ) throws {
        let vector = Self.vector(x.dtype, x.dtype)
        try pass(
            "rotate_\(x.dtype)", of: "rope.cu", parts: tokens * heads * ((pairs + vector - 1) / vector),
            attributes: [.overlapsPredecessor],
            [
                .value(x.address), .value(cosine), .value(sine), .value(Int32(tokens)), .value(Int32(heads)),
                .value(Int32(pairs)), .value(Int64(tokenStride)), .value(Int64(headStride)),
                .value(Int32(isInterleaved ? 1 : 0)),
            ])
    }

    /// Cosine and sine, float32 [tokens, pairs], of int32 positions.
    /// - Parameter inverseFrequencies: float64 [pairs].
    package func rotaryAngles(
        positions: UInt64, inverseFrequencies: UInt64, magnitude: Double, cosine: UInt64, sine: UInt64, tokens: Int,
        pairs: Int
    ) throws {
        try pass(
            "rotary_angles", of: "rope.cu", parts: tokens * pairs,
            [
                .value(positions), .value(inverseFrequencies), .value(magnitude), .value(cosine), .value(sine),
                .value(Int32(tokens)), .value(Int32(pairs)),
            ])
    }
}
