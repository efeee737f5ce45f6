import ApusSynchronization
import CApusCUDA

/// The operations on an NVIDIA GPU, queued on one stream: nothing waits for the GPU but ``toHost(_:)``, ``check()`` and reading
/// elements (``Tensor/floats``).
///
/// bf16 operands where tensors are bf16; sums are float32. Attention multiplies bf16 operands, also of float32 tensors.
/// Results are the same bits in every run. What fails gives tensors without meaning, and ``check()`` throws the first error.
/// One task at a time uses a backend.
public final class CUDABackend: Backend, Sendable {
    /// Compute capability that the kernels need: Hopper's instructions.
    public static let capability = (major: 9, minor: 0)

    /// The GPU.
    public let gpu: CUDADevice
    /// What everything is queued on.
    public let stream: CUDAStream
    /// The kernels, by address.
    package let operations: CUDAOperations
    let attention: CUDATrainingAttention
    private let failure = Locked<(any Error)?>(nil)

    /// A backend on the GPU of an ordinal.
    /// - Throws: ``CUDAError``: no driver, no such GPU, a GPU that the kernels do not run on, no NVRTC or cuBLASLt.
    public init(ordinal: Int = 0) throws {
        gpu = try CUDADevice.device(ordinal)
        guard gpu.capability.major == Self.capability.major else {
            throw CUDAError.capability(
                device: gpu.name, found: "\(gpu.capability.major).\(gpu.capability.minor)",
                expected: "\(Self.capability.major).\(Self.capability.minor)")
        }
        stream = try CUDAStream(device: gpu)
        operations = try CUDAOperations(stream: stream, measuresProducts: true)
        attention = try CUDATrainingAttention(stream: stream)
    }

    /// The GPU as tensors name it.
    public var device: Device { .cuda(gpu.ordinal) }

    /// Most bytes that tensors have taken at once.
    public var peakMemory: Int { gpu.allocator.statistics.peak }

    /// See ``Backend/concurrently(_:_:)``: on the CPU's threads.
    public func concurrently(_ count: Int, _ body: @Sendable (Int) -> Void) {
        CPUBackend.shared.concurrently(count, body)
    }

    // MARK: Errors

    /// Runs `body` unless something has failed before, and keeps its error.
    func perform(_ body: () throws -> Void) {
        guard failure.withLock({ $0 == nil }) else { return }
        do { try body() } catch { fail(error) }
    }

    private func fail(_ error: any Error) {
        failure.withLock { failure in if failure == nil { failure = error } }
    }

    /// See ``DifferentiableBackend/check()``.
    public func check() throws {
        try throwFailure()
        try stream.synchronize()
    }

    private func throwFailure() throws {
        let error = failure.withLock { failure in
            defer { failure = nil }
            return failure
        }
        if let error { throw error }
    }

    // MARK: Memory

    /// See ``DifferentiableBackend/makeTensor(_:_:)``.
    public func makeTensor(_ shape: Shape, _ dtype: DType) -> Tensor {
        guard let bytes = Tensor.byteCount(shape: shape, dtype: dtype) else {
            preconditionFailure("shape \(shape) does not fit blocks of \(dtype)")
        }
        var memory: CUDABuffer?
        perform { memory = try CUDABuffer(byteCount: bytes, stream: stream) }
        return Tensor(storage: Storage(memory, byteCount: bytes, device: device), shape: shape, dtype: dtype)
    }

    /// See ``DifferentiableBackend/copyToDevice(_:)``.
    public func copyToDevice(_ x: Tensor) -> Tensor {
        precondition(x.isContiguous, "a copy of a view")
        let result = makeTensor(x.shape, x.dtype)
        perform { try copy(x, to: address(result)) }
        return result
    }

    /// Copies the elements of a tensor, from wherever it lies.
    func copy(_ x: Tensor, to target: UInt64) throws {
        guard x.byteCount > 0 else { return }
        guard x.device == .cpu else { return try operations.copy(byteCount: x.byteCount, from: address(x), to: target) }
        try stream.upload(UnsafeRawBufferPointer(start: x.rawPointer, count: x.byteCount), to: target)
        withExtendedLifetime(x) {}
    }

    /// See ``DifferentiableBackend/toHost(_:)``.
    public func toHost(_ tensors: [Tensor]) throws -> [Tensor] {
        try throwFailure()
        let results = try tensors.map { x -> Tensor in
            guard x.device != .cpu else { return x }
            precondition(x.isContiguous, "a copy of a view")
            let result = Tensor(uninitialized: x.shape, dtype: x.dtype)
            guard x.byteCount > 0 else { return result }
            try stream.check(
                "cuMemcpyDtoHAsync",
                try gpu.current().pointee.cuMemcpyDtoHAsync(
                    result.rawPointer, try address(x), x.byteCount, stream.handle))
            return result
        }
        try stream.synchronize()
        return results
    }

    /// Where a tensor of this GPU begins.
    func address(_ x: Tensor) throws -> UInt64 {
        precondition(x.device == device, "an operation on \(device) writes or reads a tensor of \(x.device) in place")
        guard let memory = x.storage.deviceMemory else {
            throw CUDAError.launch(kernel: "any", problem: "a tensor \(x.shape) that there was no memory for")
        }
        return memory.address + UInt64(x.byteOffset)
    }

    func array(_ x: Tensor) throws -> CUDAArray { CUDAArray(try address(x), x.dtype) }

    func matrix(_ view: MatrixView) throws -> CUDAOperations.Matrix {
        CUDAOperations.Matrix(
            try array(view.tensor).advanced(by: view.offset), rows: view.rows, columns: view.columns,
            stride: view.stride, isTransposed: view.isTransposed)
    }

    /// Rows and width of a contiguous activation.
    static func extents(_ x: Tensor, _ operation: String) -> (rows: Int, width: Int) {
        precondition(
            x.isContiguous && x.shape.rank >= 1 && (x.dtype == .f32 || x.dtype == .bf16),
            "\(operation): float32 or bf16 rows expected, found \(x.dtype) \(x.shape)")
        let width = x.shape[-1]
        return (width == 0 ? 0 : x.count / width, width)
    }

    static func shape(_ x: Tensor, width: Int) -> Shape {
        var shape = x.shape
        shape[-1] = width
        return shape
    }
}
