// Work on many tensors at once: a few launches, however many parameters a model has.
extension CUDAOperations {
    /// Elements that a block of these kernels takes.
    private static let chunk = 16384

    /// A tensor of the list of `sum_of_squares`, as reductions.cu declares it.
    private struct SummedTensor: BitwiseCopyable {
        var values: UInt64
        var count: Int64
        var firstBlock: Int32
        var unused: Int32 = 0
    }

    /// `result`, a float64, becomes the sum of the squares of all elements of float32 arrays.
    package func sumOfSquares(_ tensors: [(address: UInt64, count: Int)], to result: UInt64) throws {
        var (list, blocks) = ([SummedTensor](), 0)
        for tensor in tensors where tensor.count > 0 {
            list.append(
                SummedTensor(values: tensor.address, count: Int64(tensor.count), firstBlock: Int32(blocks)))
            blocks += (tensor.count + Self.chunk - 1) / Self.chunk
        }
        guard blocks > 0 else { return try zero(byteCount: 8, at: result) }
        let (table, partials) = (try stream.upload(list), try scratch(byteCount: blocks * 8))
        try kernel("sum_of_squares", of: "reductions.cu").launch(
            grid: CUDAExtent(blocks), block: CUDAExtent(Self.threads), on: stream, .buffer(table),
            .value(Int32(list.count)), .buffer(partials))
        try kernel("sum_float64", of: "reductions.cu").launch(
            grid: 1, block: CUDAExtent(Self.threads), on: stream, .buffer(partials), .value(Int32(blocks)),
            .value(result))
    }

    /// A tensor that AdamW changes, as adamw.cu declares it: float32, and a bf16 copy or 0.
    package struct UpdatedTensor: BitwiseCopyable, Sendable {
        var gradient: UInt64
        var values: UInt64
        var firstMoment: UInt64
        var secondMoment: UInt64
        var narrow: UInt64
        var count: Int64
        var decay: Float
        var firstBlock: Int32 = 0

        /// A tensor and what belongs to it.
        package init(
            gradient: UInt64, values: UInt64, firstMoment: UInt64, secondMoment: UInt64, narrow: UInt64, count: Int,
            decay: Float
        ) {
            self.gradient = gradient
            self.values = values
            self.firstMoment = firstMoment
            self.secondMoment = secondMoment
            self.narrow = narrow
            self.count = Int64(count)
            self.decay = decay
        }
    }

    /// The numbers of a step, as adamw.cu declares them.
    private struct Step: BitwiseCopyable {
        var rate: Float
        var beta1: Float
        var beta2: Float
        var epsilon: Float
        var correction1: Float
        var correction2: Float
        var scale: Float
        var clip: Float
        var squares: UInt64
    }

    /// One step of AdamW on a list of tensors. `squares`: the sum of the squares of all gradients, a float64, from which
    /// `clip` (0: none) follows; where it is not finite nothing changes.
    package func adamW(_ step: AdamWStep, _ tensors: [UpdatedTensor], clip: Float, squares: UInt64?) throws {
        var (list, blocks) = ([UpdatedTensor](), 0)
        for var tensor in tensors where tensor.count > 0 {
            tensor.firstBlock = Int32(blocks)
            blocks += (Int(tensor.count) + Self.chunk - 1) / Self.chunk
            list.append(tensor)
        }
        guard blocks > 0 else { return }
        let table = try stream.upload(list)
        let numbers = Step(
            rate: step.learningRate, beta1: step.beta1, beta2: step.beta2, epsilon: step.epsilon,
            correction1: step.correction(step.beta1), correction2: step.correction(step.beta2),
            scale: step.gradientScale, clip: clip, squares: squares ?? 0)
        try kernel("adamw", of: "adamw.cu").launch(
            grid: CUDAExtent(blocks), block: CUDAExtent(Self.threads), on: stream, .buffer(table),
            .value(Int32(list.count)), .value(numbers))
    }

    /// Sets bytes to zero.
    package func zero(byteCount: Int, at address: UInt64) throws {
        guard byteCount > 0 else { return }
        try stream.check(
            "cuMemsetD8Async", try device.current().pointee.cuMemsetD8Async(address, 0, byteCount, stream.handle))
    }

    /// Copies bytes within the GPU; the ranges do not overlap.
    package func copy(byteCount: Int, from source: UInt64, to target: UInt64) throws {
        guard byteCount > 0, source != target else { return }
        try stream.check(
            "cuMemcpyDtoDAsync",
            try device.current().pointee.cuMemcpyDtoDAsync(target, source, byteCount, stream.handle))
    }

    // MARK: Products

    /// A matrix in a GPU's memory: rows `stride` elements apart, read transposed where it says so.
    package struct Matrix: Sendable {
        /// The first element.
        package var array: CUDAArray
        /// Rows and columns as stored.
        package var rows: Int, columns: Int
        /// Elements from row to row.
        package var stride: Int
        /// Whether products read it transposed.
        package var isTransposed: Bool

        /// A matrix; rows side by side unless a stride is given.
        package init(
            _ array: CUDAArray, rows: Int, columns: Int, stride: Int? = nil, isTransposed: Bool = false
        ) {
            self.array = array
            self.rows = rows
            self.columns = columns
            self.stride = stride ?? columns
            self.isTransposed = isTransposed
        }
    }

    /// `c = a b`, or `c += a b`: a and b both float32 or both bf16, c float32 or bf16.
    package func multiply(_ a: Matrix, _ b: Matrix, into c: Matrix, accumulate: Bool = false) throws {
        let k = a.isTransposed ? a.rows : a.columns
        guard c.rows > 0, c.columns > 0 else { return }
        guard k > 0 else {
            if !accumulate {
                for row in 0..<c.rows {
                    let start = c.array.advanced(by: row * c.stride)
                    try zero(byteCount: c.columns * c.array.dtype.bytesPerBlock, at: start.address)
                }
            }
            return
        }
        let shape = CUDAProductShape(
            m: c.rows, n: c.columns, k: k, aStride: a.stride, bStride: b.stride, cStride: c.stride,
            aTransposed: a.isTransposed, bTransposed: b.isTransposed, input: a.array.dtype, output: c.array.dtype,
            alignments: [a, b, c].map { CUDAProductShape.alignment($0.array.address) })
        try products.multiply(
            shape, a: a.array.address, b: b.array.address, c: c.array.address, accumulate: accumulate)
    }
}
