import CApusCUDA

/// Memory of the host that does not move or swap, so that the GPU copies from and to it without the CPU's help.
///
/// It must live until the copies that use it are done.
public final class CUDAHostBuffer: @unchecked Sendable {
    /// First byte. Whoever shares the buffer between threads orders their accesses.
    public let base: UnsafeMutableRawPointer
    /// Size in bytes.
    public let byteCount: Int
    private let device: CUDADevice

    /// Uninitialised pinned memory. Precondition: `byteCount >= 0`.
    public init(byteCount: Int, device: CUDADevice) throws(CUDAError) {
        precondition(byteCount >= 0, "a buffer of \(byteCount) bytes")
        let cu = try device.current()
        var pointer: UnsafeMutableRawPointer?
        let flags = UInt32(APUS_CUDA_HOST_PORTABLE)
        try device.driver.check("cuMemHostAlloc", cu.pointee.cuMemHostAlloc(&pointer, max(byteCount, 1), flags))
        base = pointer!
        self.byteCount = byteCount
        self.device = device
    }

    deinit {
        if let cu = try? device.current() { _ = cu.pointee.cuMemFreeHost(base) }
    }

    /// All bytes.
    public var bytes: UnsafeMutableRawBufferPointer { UnsafeMutableRawBufferPointer(start: base, count: byteCount) }

    func check(_ operation: String, offset: Int, count: Int) throws(CUDAError) {
        guard offset >= 0, count >= 0, offset <= byteCount, count <= byteCount - offset else {
            throw .range(operation: operation, offset: offset, count: count, size: byteCount)
        }
    }
}
