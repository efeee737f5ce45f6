import ApusSynchronization
import CApusCUDA

/// What an algorithm of a matrix product depends on: sizes, how the matrices lie, types, alignment.
package struct CUDAProductShape: Hashable, Sendable {
    /// c [m, n] = a [m, k] b [k, n].
    package var m: Int, n: Int, k: Int
    /// Elements from row to row, as stored.
    package var aStride: Int, bStride: Int, cStride: Int
    /// Whether what is stored is read the other way round.
    package var aTransposed: Bool, bTransposed: Bool
    /// Of a and b: float32 or bf16.
    package var input: DType
    /// Of c: float32 or bf16.
    package var output: DType
    /// The largest powers of two, up to 256, that addresses of a, b and c are multiples of.
    package var alignments: [UInt32]

    /// A product of matrices that lie so.
    package init(
        m: Int, n: Int, k: Int, aStride: Int, bStride: Int, cStride: Int, aTransposed: Bool, bTransposed: Bool,
        input: DType, output: DType, alignments: [UInt32]
    ) {
        self.m = m
        self.n = n
        self.k = k
        self.aStride = aStride
        self.bStride = bStride
        self.cStride = cStride
        self.aTransposed = aTransposed
        self.bTransposed = bTransposed
        self.input = input
        self.output = output
        self.alignments = alignments
    }

    /// What is known of an address for ``alignments``.
    package static func alignment(_ address: UInt64) -> UInt32 { UInt32(min(address & (~address &+ 1), 256)) }

    var description: String {
        "[\(m), \(k)]\(aTransposed ? " (transposed)" : "") x [\(k), \(n)]\(bTransposed ? " (transposed)" : "") of \(input)"
    }
}

/// Matrix products by cuBLASLt on one stream. The algorithm of a shape is chosen when it first occurs, and kept; or chosen
/// again, once, by measuring.
///
/// Sums are float32. Algorithms that add partial sums in no order are left out, so that results are the same in every run.
package final class CUDAProducts: Sendable {
    /// What an algorithm may use beside: NVIDIA's recommendation for Hopper.
    package static let workspaceBytes = 32 << 20

    private let stream: CUDAStream
    private let workspaceBytes: Int
    private let measures: Bool
    private let state: Locked<State>

    private final class State: @unchecked Sendable {
        // Used under the lock only; the handle is never changed.
        let functions: UnsafePointer<apus_cublaslt>
        let handle: apus_cublaslt_handle
        var workspace: CUDABuffer?
        var plans: [CUDAProductShape: CUDAProductPlan] = [:]

        init(_ functions: UnsafePointer<apus_cublaslt>, _ handle: apus_cublaslt_handle) {
            self.functions = functions
            self.handle = handle
        }

        deinit {
            plans = [:]
            _ = functions.pointee.cublasLtDestroy(handle)
        }
    }

    /// Products on a stream. Throws ``CUDAError/library(_:)`` without cuBLASLt.
    /// - Parameter measures: whether large products that occur often are measured with other algorithms, for which the stream
    ///   is waited for once. The fastest is kept of those that give the same bits, so that results do not hang on the clock.
    package init(
        stream: CUDAStream, workspaceBytes: Int = CUDAProducts.workspaceBytes, measures: Bool = false
    ) throws {
        let functions = try CUDALibraries.cublasLt.table()
        _ = try stream.device.current()
        var handle: apus_cublaslt_handle?
        try CUDAProductPlan.check(functions, "cublasLtCreate", functions.pointee.cublasLtCreate(&handle))
        self.stream = stream
        self.workspaceBytes = workspaceBytes
        self.measures = measures
        state = Locked(State(functions, handle!))
    }

    /// Chooses the algorithm of a shape, unless that is done.
    package func prepare(_ shape: CUDAProductShape) throws { try state.withLock { _ = try plan(shape, $0) } }

    /// Queues c = a b, or c += a b, of matrices at these addresses.
    package func multiply(_ shape: CUDAProductShape, a: UInt64, b: UInt64, c: UInt64, accumulate: Bool) throws {
        let name = try state.withLock { state in
            let plan = try plan(shape, state)
            let workspace = try state.workspace ?? CUDABuffer(byteCount: workspaceBytes, stream: stream)
            state.workspace = workspace
            _ = try stream.device.current()
            let product = CUDAProductPlan.Product(
                handle: state.handle, a: a, b: b, c: c, accumulate: accumulate, workspace: workspace, stream: stream)
            try plan.measureIfDue(product)
            try plan.run(product)
            return plan.name
        }
        stream.launched(name)
    }

    private func plan(_ shape: CUDAProductShape, _ state: State) throws -> CUDAProductPlan {
        if let known = state.plans[shape] { return known }
        let made = try CUDAProductPlan(
            shape, state.handle, state.functions, workspaceBytes: workspaceBytes, measures: measures)
        state.plans[shape] = made
        return made
    }
}

/// The layouts and the algorithm of one shape. Not Sendable: it is used under the lock of its ``CUDAProducts``.
final class CUDAProductPlan {
    /// For messages about the stream.
    let name: String
    private let functions: UnsafePointer<apus_cublaslt>
    private var operation: apus_cublaslt_operation?
    private var layouts: (a: apus_cublaslt_layout?, b: apus_cublaslt_layout?, c: apus_cublaslt_layout?)
    private var algorithm = apus_cublaslt_algorithm()
    /// Others, until they have been measured; none where that is not asked for.
    private var rivals: [apus_cublaslt_algorithm] = []
    private let shape: CUDAProductShape
    private var uses = 0

    /// One product, queued on a stream.
    struct Product {
        let handle: apus_cublaslt_handle
        let a: UInt64, b: UInt64, c: UInt64
        let accumulate: Bool
        let workspace: CUDABuffer
        let stream: CUDAStream
    }

    static func check(
        _ functions: UnsafePointer<apus_cublaslt>, _ name: StaticString, _ code: Int32
    ) throws(CUDAError) {
        if code == 0 { return }
        let codeName = functions.pointee.cublasLtGetStatusName(code).map { String(cString: $0) } ?? "unknown status"
        throw .call(name: name.description, code: Int(code), codeName: codeName, meaning: "cuBLASLt", kernel: nil)
    }

    private func check(_ name: StaticString, _ code: Int32) throws(CUDAError) {
        try Self.check(functions, name, code)
    }

    /// cuBLASLt counts columns first: a row-major [rows, columns] is its [columns, rows]. So it computes c^T = b^T a^T, its
    /// first matrix being our b.
    init(
        _ shape: CUDAProductShape, _ handle: apus_cublaslt_handle, _ functions: UnsafePointer<apus_cublaslt>,
        workspaceBytes: Int, measures: Bool
    ) throws(CUDAError) {
        self.functions = functions
        self.shape = shape
        name = "cublasLtMatmul \(shape.description)"
        let lt = functions.pointee
        try check(
            "cublasLtMatmulDescCreate",
            lt.cublasLtMatmulDescCreate(&operation, Int32(APUS_CUBLAS_COMPUTE_F32), Int32(APUS_CUBLAS_F32)))
        for (attribute, isTransposed) in [
            (APUS_CUBLASLT_OPERATION_TRANSPOSE_A, shape.bTransposed),
            (APUS_CUBLASLT_OPERATION_TRANSPOSE_B, shape.aTransposed),
        ] {
            var transpose = Int32(isTransposed ? APUS_CUBLAS_TRANSPOSE : APUS_CUBLAS_NO_TRANSPOSE)
            try check(
                "cublasLtMatmulDescSetAttribute",
                lt.cublasLtMatmulDescSetAttribute(
                    operation, Int32(attribute), &transpose, MemoryLayout<Int32>.size))
        }
        let (m, n, k) = (shape.m, shape.n, shape.k)
        layouts.a = try layout(shape.input, shape.aTransposed ? (k, m) : (m, k), stride: shape.aStride)
        layouts.b = try layout(shape.input, shape.bTransposed ? (n, k) : (k, n), stride: shape.bStride)
        layouts.c = try layout(shape.output, (m, n), stride: shape.cStride)
        try choose(shape, handle, workspaceBytes: workspaceBytes, count: measures && isMeasurable ? 8 : 1)
    }

    deinit {
        let lt = functions.pointee
        for layout in [layouts.a, layouts.b, layouts.c] where layout != nil {
            _ = lt.cublasLtMatrixLayoutDestroy(layout)
        }
        if operation != nil { _ = lt.cublasLtMatmulDescDestroy(operation) }
    }

    /// The layout of a row-major matrix as it is stored.
    private func layout(
        _ dtype: DType, _ extents: (rows: Int, columns: Int), stride: Int
    ) throws(CUDAError) -> apus_cublaslt_layout? {
        var layout: apus_cublaslt_layout?
        let type = Int32(dtype == .bf16 ? APUS_CUBLAS_BF16 : APUS_CUBLAS_F32)
        try check(
            "cublasLtMatrixLayoutCreate",
            functions.pointee.cublasLtMatrixLayoutCreate(
                &layout, type, UInt64(extents.columns), UInt64(extents.rows), Int64(stride)))
        return layout
    }

    private func choose(
        _ shape: CUDAProductShape, _ handle: apus_cublaslt_handle, workspaceBytes: Int, count: Int
    ) throws(CUDAError) {
        let lt = functions.pointee
        var preference: apus_cublaslt_preference?
        try check("cublasLtMatmulPreferenceCreate", lt.cublasLtMatmulPreferenceCreate(&preference))
        defer { _ = lt.cublasLtMatmulPreferenceDestroy(preference) }
        var bytes = workspaceBytes
        try check(
            "cublasLtMatmulPreferenceSetAttribute",
            lt.cublasLtMatmulPreferenceSetAttribute(
                preference, Int32(APUS_CUBLASLT_PREFERENCE_WORKSPACE_BYTES), &bytes, MemoryLayout<Int>.size))
        // Without these the heuristic takes all addresses for multiples of 256, which those of views are not.
        let (a, b, c) = (shape.alignments[0], shape.alignments[1], shape.alignments[2])
        for (attribute, value) in [
            (APUS_CUBLASLT_PREFERENCE_ALIGNMENT_A, b), (APUS_CUBLASLT_PREFERENCE_ALIGNMENT_B, a),
            (APUS_CUBLASLT_PREFERENCE_ALIGNMENT_C, c), (APUS_CUBLASLT_PREFERENCE_ALIGNMENT_D, c),
            (APUS_CUBLASLT_PREFERENCE_REDUCTIONS, UInt32(APUS_CUBLASLT_REDUCTIONS_IN_ORDER)),
        ] {
            var value = value
            try check(
                "cublasLtMatmulPreferenceSetAttribute",
                lt.cublasLtMatmulPreferenceSetAttribute(
                    preference, Int32(attribute), &value, MemoryLayout<UInt32>.size))
        }
        var heuristics = [apus_cublaslt_heuristic](repeating: apus_cublaslt_heuristic(), count: count)
        var found: Int32 = 0
        let code = lt.cublasLtMatmulAlgoGetHeuristic(
            handle, operation, layouts.b, layouts.a, layouts.c, layouts.c, preference, Int32(count), &heuristics,
            &found)
        guard code == 0, found > 0 else {
            throw .launch(
                kernel: "cublasLtMatmul", problem: "no algorithm for a product \(shape.description) (status \(code))")
        }
        algorithm = heuristics[0].algorithm
        rivals = heuristics[1..<Int(found)].filter { $0.status == 0 }.map(\.algorithm)
    }

    func run(_ product: Product) throws(CUDAError) { try run(product, by: algorithm) }

    private func run(_ product: Product, by algorithm: apus_cublaslt_algorithm) throws(CUDAError) {
        var one: Float = 1
        var beta: Float = product.accumulate ? 1 : 0
        var algorithm = algorithm
        try check(
            "cublasLtMatmul",
            functions.pointee.cublasLtMatmul(
                product.handle, operation, &one, product.b, layouts.b, product.a, layouts.a, &beta, product.c,
                layouts.c, product.c, layouts.c, &algorithm, product.workspace.address, product.workspace.byteCount,
                product.stream.handle))
    }
}

// MARK: Measuring

extension CUDAProductPlan {
    /// Uses of a shape after which it is measured: those of batches that differ each time are not.
    private static let usesBeforeMeasuring = 64
    /// Multiplications of a product that is worth it: some 10 us.
    private static let leastMultiplications = 1 << 31
    /// How much faster an algorithm must be than the first.
    private static let gain = 0.98

    /// Whether a product is large, and its result consists of whole words.
    private var isMeasurable: Bool {
        let element = shape.output.bytesPerBlock
        return shape.m * shape.n * shape.k >= Self.leastMultiplications && shape.n * element % 4 == 0
            && shape.cStride * element % 4 == 0 && shape.alignments[2] >= 4
    }

    /// Measures the algorithms on this product, whose result they overwrite, if it is the time for that.
    func measureIfDue(_ product: Product) throws {
        uses += 1
        guard uses >= Self.usesBeforeMeasuring, !rivals.isEmpty, !product.accumulate else { return }
        let others = rivals
        rivals = []
        let expected = try checksum(of: product, by: algorithm)
        var algorithms = [algorithm]
        for other in others {
            // What cannot run is no rival.
            if let sum = try? checksum(of: product, by: other), sum == expected { algorithms.append(other) }
        }
        guard algorithms.count > 1 else { return }
        var best = [Double](repeating: .infinity, count: algorithms.count)
        for _ in 0..<3 {
            for (index, other) in algorithms.enumerated() {
                best[index] = min(best[index], try seconds(of: product, by: other))
            }
        }
        let fastest = best.indices.min { best[$0] < best[$1] }!
        if best[fastest] < Self.gain * best[0] { algorithm = algorithms[fastest] }
    }

    private func checksum(of product: Product, by algorithm: apus_cublaslt_algorithm) throws -> UInt64 {
        let (stream, blocks) = (product.stream, min(shape.m, 1024))
        let element = shape.output.bytesPerBlock
        let partials = try CUDABuffer(byteCount: 8 * blocks, stream: stream)
        try run(product, by: algorithm)
        try stream.device.modules.kernel("checksum", in: KernelSources.source("reductions.cu")).launch(
            grid: CUDAExtent(blocks), block: CUDAExtent(CUDAOperations.threads), on: stream, .value(product.c),
            .value(Int32(shape.m)), .value(Int32(shape.n * element / 4)), .value(Int64(shape.cStride * element / 4)),
            .buffer(partials))
        return try stream.download(partials, count: blocks, as: UInt64.self).reduce(0, &+)
    }

    /// Seconds of four runs.
    private func seconds(of product: Product, by algorithm: apus_cublaslt_algorithm) throws(CUDAError) -> Double {
        let start = try CUDAEvent(device: product.stream.device)
        let end = try CUDAEvent(device: product.stream.device)
        try start.record(on: product.stream)
        for _ in 0..<4 { try run(product, by: algorithm) }
        try end.record(on: product.stream)
        try end.synchronize()
        return try end.seconds(since: start)
    }
}
