import ApusSynchronization
import CApusCUDA

/// A matrix product by cuBLASLt: out[m, n] = x[m, k] weight[n, k]^T, all row-major, float32 sums. The algorithm is chosen
/// when the product is made; running it needs no further memory than its workspace, which is why it has one stream.
public final class CUDAMatrixProduct: Sendable {
    /// Rows of x, rows of the weight, and their common width.
    public let m: Int, n: Int, k: Int
    private let stream: CUDAStream
    private let workspace: CUDABuffer
    private let algorithm: apus_cublaslt_algorithm
    // Made in init and destroyed in deinit; a handle may be used from any thread, one at a time.
    private nonisolated(unsafe) let parts: Parts
    private let lock = Locked(())

    private struct Parts {
        let functions: UnsafePointer<apus_cublaslt>
        var handle: apus_cublaslt_handle?
        var operation: apus_cublaslt_operation?
        var x: apus_cublaslt_layout?
        var weight: apus_cublaslt_layout?
        var out: apus_cublaslt_layout?

        func destroy() {
            let lt = functions.pointee
            for layout in [x, weight, out] where layout != nil { _ = lt.cublasLtMatrixLayoutDestroy(layout) }
            if operation != nil { _ = lt.cublasLtMatmulDescDestroy(operation) }
            if handle != nil { _ = lt.cublasLtDestroy(handle) }
        }

        func check(_ name: StaticString, _ code: Int32) throws(CUDAError) {
            if code == 0 { return }
            let codeName = functions.pointee.cublasLtGetStatusName(code).map { String(cString: $0) } ?? "unknown status"
            throw .call(name: name.description, code: Int(code), codeName: codeName, meaning: "cuBLASLt", kernel: nil)
        }
    }

    /// A product of bf16 matrices with a bf16 result. `workspaceBytes`: what an algorithm may use beside.
    public init(bf16 m: Int, _ n: Int, _ k: Int, stream: CUDAStream, workspaceBytes: Int = 64 << 20) throws {
        let functions = try CUDALibraries.cublasLt.table()
        _ = try stream.device.current()
        var parts = Parts(functions: functions)
        do {
            algorithm = try CUDAMatrixProduct.plan(&parts, m, n, k, workspaceBytes)
            workspace = try CUDABuffer(byteCount: workspaceBytes, stream: stream)
        } catch {
            parts.destroy()
            throw error
        }
        self.parts = parts
        (self.m, self.n, self.k) = (m, n, k)
        self.stream = stream
    }

    deinit {
        parts.destroy()
    }

    /// cuBLASLt counts columns first: a row-major [rows, columns] is its [columns, rows]. So it computes out^T = weight x^T.
    private static func plan(
        _ parts: inout Parts, _ m: Int, _ n: Int, _ k: Int, _ workspaceBytes: Int
    ) throws(CUDAError) -> apus_cublaslt_algorithm {
        let lt = parts.functions.pointee
        let type = Int32(APUS_CUBLAS_BF16)
        try parts.check("cublasLtCreate", lt.cublasLtCreate(&parts.handle))
        try parts.check(
            "cublasLtMatmulDescCreate",
            lt.cublasLtMatmulDescCreate(&parts.operation, Int32(APUS_CUBLAS_COMPUTE_F32), Int32(APUS_CUBLAS_F32)))
        var transpose = Int32(APUS_CUBLAS_TRANSPOSE)
        try parts.check(
            "cublasLtMatmulDescSetAttribute",
            lt.cublasLtMatmulDescSetAttribute(
                parts.operation, Int32(APUS_CUBLASLT_OPERATION_TRANSPOSE_A), &transpose, MemoryLayout<Int32>.size))
        try parts.check(
            "cublasLtMatrixLayoutCreate",
            lt.cublasLtMatrixLayoutCreate(&parts.weight, type, UInt64(k), UInt64(n), Int64(k)))
        try parts.check(
            "cublasLtMatrixLayoutCreate", lt.cublasLtMatrixLayoutCreate(&parts.x, type, UInt64(k), UInt64(m), Int64(k)))
        try parts.check(
            "cublasLtMatrixLayoutCreate",
            lt.cublasLtMatrixLayoutCreate(&parts.out, type, UInt64(n), UInt64(m), Int64(n)))
        var preference: apus_cublaslt_preference?
        try parts.check("cublasLtMatmulPreferenceCreate", lt.cublasLtMatmulPreferenceCreate(&preference))
        defer { _ = lt.cublasLtMatmulPreferenceDestroy(preference) }
        var bytes = workspaceBytes
        try parts.check(
            "cublasLtMatmulPreferenceSetAttribute",
            lt.cublasLtMatmulPreferenceSetAttribute(
                preference, Int32(APUS_CUBLASLT_PREFERENCE_WORKSPACE_BYTES), &bytes, MemoryLayout<Int>.size))
        var heuristic = apus_cublaslt_heuristic()
        var found: Int32 = 0
        try parts.check(
            "cublasLtMatmulAlgoGetHeuristic",
            lt.cublasLtMatmulAlgoGetHeuristic(
                parts.handle, parts.operation, parts.weight, parts.x, parts.out, parts.out, preference, 1, &heuristic,
                &found))
        guard found > 0 else {
            throw .launch(kernel: "cublasLtMatmul", problem: "no algorithm for a product [\(m), \(k)] x [\(n), \(k)]^T")
        }
        return heuristic.algorithm
    }

    /// Queues the product. The buffers hold at least m k, n k and m n elements.
    public func run(x: CUDABuffer, weight: CUDABuffer, out: CUDABuffer) throws(CUDAError) {
        let element = MemoryLayout<UInt16>.size
        try x.check("product, x", offset: 0, count: m * k * element)
        try weight.check("product, weight", offset: 0, count: n * k * element)
        try out.check("product, result", offset: 0, count: m * n * element)
        for buffer in [x, weight, out] { buffer.used(on: stream) }
        _ = try stream.device.current()
        let code = lock.withLock { _ in
            var one: Float = 1
            var zero: Float = 0
            var algorithm = algorithm
            return parts.functions.pointee.cublasLtMatmul(
                parts.handle, parts.operation, &one, weight.address, parts.weight, x.address, parts.x, &zero,
                out.address,
                parts.out, out.address, parts.out, &algorithm, workspace.address, workspace.byteCount, stream.handle)
        }
        try parts.check("cublasLtMatmul", code)
        stream.launched("cublasLtMatmul [\(m), \(k)] x [\(n), \(k)]^T")
    }
}
