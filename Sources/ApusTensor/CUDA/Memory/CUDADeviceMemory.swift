import CApusCUDA

/// Where a caching allocator gets its memory from, and how it learns that a stream is past a point.
///
/// Streams and events are plain numbers here, so that the allocator can be tested without a GPU.
package protocol CUDADeviceMemory: AnyObject, Sendable {
    /// The address of new memory at a multiple of 512, or nil when there is none left.
    func allocate(byteCount: Int) throws -> UInt64?
    /// Gives memory back. No queued work uses it.
    func free(_ address: UInt64)
    /// Memory in bytes.
    func available() -> (free: Int, total: Int)
    /// A mark behind all work queued on the stream so far.
    func record(stream: UInt) throws -> UInt
    /// Lets later work of the stream wait for the mark.
    func wait(stream: UInt, for event: UInt) throws
    /// Whether the work before the mark is done.
    func isComplete(event: UInt) -> Bool
    /// Ends the use of a mark.
    func destroy(event: UInt)
    /// Waits for all queued work.
    func synchronize()
}

/// The memory of a GPU, from the driver.
final class CUDADriverMemory: CUDADeviceMemory {
    // The device owns its allocator, which owns this: unowned breaks the circle, and devices live as long as the process.
    private unowned let device: CUDADevice

    init(device: CUDADevice) {
        self.device = device
    }

    func allocate(byteCount: Int) throws -> UInt64? {
        var address: UInt64 = 0
        let code = try device.current().pointee.cuMemAlloc(&address, byteCount)
        if Int(code) == APUS_CUDA_OUT_OF_MEMORY { return nil }
        try device.driver.check("cuMemAlloc", code)
        return address
    }

    func free(_ address: UInt64) {
        _ = try? device.current().pointee.cuMemFree(address)
    }

    func available() -> (free: Int, total: Int) {
        (try? device.memory()) ?? (0, device.totalMemory)
    }

    func record(stream: UInt) throws -> UInt {
        let cu = try device.current()
        var event: apus_cuda_event?
        try device.driver.check(
            "cuEventCreate", cu.pointee.cuEventCreate(&event, UInt32(APUS_CUDA_EVENT_DISABLE_TIMING)))
        let code = cu.pointee.cuEventRecord(event, OpaquePointer(bitPattern: stream))
        if code != 0 { _ = cu.pointee.cuEventDestroy(event) }
        try device.driver.check("cuEventRecord", code)
        return UInt(bitPattern: event)
    }

    func wait(stream: UInt, for event: UInt) throws {
        try device.driver.check(
            "cuStreamWaitEvent",
            try device.current().pointee.cuStreamWaitEvent(
                OpaquePointer(bitPattern: stream), OpaquePointer(bitPattern: event), 0))
    }

    func isComplete(event: UInt) -> Bool {
        // After a failure of the GPU no work is running either: only "not ready" means that the memory is in use.
        guard let cu = try? device.current() else { return true }
        return Int(cu.pointee.cuEventQuery(OpaquePointer(bitPattern: event))) != APUS_CUDA_NOT_READY
    }

    func destroy(event: UInt) {
        _ = try? device.current().pointee.cuEventDestroy(OpaquePointer(bitPattern: event))
    }

    func synchronize() {
        try? device.synchronize()
    }
}
