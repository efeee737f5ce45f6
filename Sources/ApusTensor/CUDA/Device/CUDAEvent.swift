import CApusCUDA

/// A mark in a stream: to wait for, and to time with.
public final class CUDAEvent: Sendable {
    /// The GPU it belongs to.
    public let device: CUDADevice
    // Created in init and destroyed in deinit only; the driver's functions may be called from any thread.
    nonisolated(unsafe) let handle: apus_cuda_event

    /// A new event, not recorded yet. `timing`: whether ``seconds(since:)`` will be asked; events without are cheaper.
    public init(device: CUDADevice, timing: Bool = true) throws(CUDAError) {
        let cu = try device.current()
        let flags = timing ? APUS_CUDA_EVENT_DEFAULT : APUS_CUDA_EVENT_DISABLE_TIMING
        var event: apus_cuda_event?
        try device.driver.check("cuEventCreate", cu.pointee.cuEventCreate(&event, UInt32(flags)))
        self.device = device
        handle = event!
    }

    deinit {
        if let cu = try? device.current() { _ = cu.pointee.cuEventDestroy(handle) }
    }

    /// Puts the mark behind all work queued on the stream so far.
    public func record(on stream: CUDAStream) throws(CUDAError) {
        try stream.check("cuEventRecord", try device.current().pointee.cuEventRecord(handle, stream.handle))
    }

    /// Whether the work before the mark is done.
    public func isComplete() throws(CUDAError) -> Bool {
        let code = try device.current().pointee.cuEventQuery(handle)
        if Int(code) == APUS_CUDA_NOT_READY { return false }
        try device.driver.check("cuEventQuery", code)
        return true
    }

    /// Waits until the work before the mark is done.
    public func synchronize() throws(CUDAError) {
        try device.driver.check("cuEventSynchronize", try device.current().pointee.cuEventSynchronize(handle))
    }

    /// Seconds of the GPU's clock between two marks, resolved to about half a microsecond. Both must be complete.
    public func seconds(since start: CUDAEvent) throws(CUDAError) -> Double {
        var milliseconds: Float = 0
        try device.driver.check(
            "cuEventElapsedTime",
            try device.current().pointee.cuEventElapsedTime(&milliseconds, start.handle, handle))
        return Double(milliseconds) / 1000
    }
}
