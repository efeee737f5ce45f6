import ApusSynchronization
import CApusCUDA

/// A queue of work on a GPU, run in order. Streams do not wait for each other, nor for the default stream.
public final class CUDAStream: Sendable {
    /// The GPU it belongs to.
    public let device: CUDADevice
    // Created in init and destroyed in deinit only; the driver's functions may be called from any thread.
    package nonisolated(unsafe) let handle: apus_cuda_stream
    /// What values pass on their way to the GPU.
    let staging = CUDAStaging()
    private let isOwned: Bool
    private let state = Locked(State())

    private struct State: Sendable {
        var lastKernel: String?
        /// Marks behind every launch, where they are taken.
        var timeline: [(name: String, event: CUDAEvent)]?
    }

    /// A new stream. `priority`: lower numbers run first; 0 is the default.
    public init(device: CUDADevice, priority: Int = 0) throws(CUDAError) {
        let cu = try device.current()
        var stream: apus_cuda_stream?
        let flags = UInt32(APUS_CUDA_STREAM_NON_BLOCKING)
        try device.driver.check(
            "cuStreamCreateWithPriority", cu.pointee.cuStreamCreateWithPriority(&stream, flags, Int32(priority)))
        self.device = device
        handle = stream!
        isOwned = true
    }

    /// A stream of the caller's: a `CUstream` of the device's primary context, which must outlive this object; nil for the
    /// default stream.
    public init(borrowing handle: UnsafeMutableRawPointer?, device: CUDADevice) {
        self.device = device
        // CU_STREAM_LEGACY where there is no handle.
        self.handle = apus_cuda_stream(handle ?? UnsafeMutableRawPointer(bitPattern: 1)!)
        isOwned = false
    }

    deinit {
        // Buffers keep their stream, so all its blocks are back in the allocator's lists by now.
        device.allocator.retire(stream: key)
        guard isOwned, let cu = try? device.current() else { return }
        _ = cu.pointee.cuStreamDestroy(handle)
    }

    /// What the allocator knows the stream by.
    var key: UInt { UInt(bitPattern: handle) }

    /// Checks a call on this stream; an error names the last kernel launched here.
    func check(_ name: StaticString, _ code: Int32) throws(CUDAError) {
        try device.driver.check(name, code, kernel: state.withLock { $0.lastKernel })
    }

    func launched(_ kernel: String) {
        let isTimed = state.withLock { state in
            state.lastKernel = kernel
            return state.timeline != nil
        }
        guard isTimed, let event = try? CUDAEvent(device: device) else { return }
        try? event.record(on: self)
        state.withLock { $0.timeline?.append((kernel, event)) }
    }

    /// From here on every launch is followed by a mark, at a microsecond or so each.
    public func beginTimeline() throws(CUDAError) {
        let event = try CUDAEvent(device: device)
        try event.record(on: self)
        state.withLock { $0.timeline = [("", event)] }
    }

    /// Seconds from mark to mark, by the kernel before the second of them, the longest first: of a stream that never waits
    /// for the CPU, the time of its kernels, with copies and fills counted to the kernel after them.
    public func endTimeline() throws -> [(kernel: String, launches: Int, seconds: Double)] {
        let marks = state.withLock { state in
            defer { state.timeline = nil }
            return state.timeline ?? []
        }
        try synchronize()
        var sums: [String: (launches: Int, seconds: Double)] = [:]
        for (before, after) in zip(marks, marks.dropFirst()) {
            let seconds = try after.event.seconds(since: before.event)
            sums[after.name, default: (0, 0)].launches += 1
            sums[after.name]?.seconds += seconds
        }
        return sums.map { (kernel: $0.key, launches: $0.value.launches, seconds: $0.value.seconds) }
            .sorted { ($1.seconds, $0.kernel) < ($0.seconds, $1.kernel) }
    }

    /// Waits until all queued work is done. An error of an earlier kernel shows here.
    public func synchronize() throws(CUDAError) {
        try check("cuStreamSynchronize", try device.current().pointee.cuStreamSynchronize(handle))
    }

    /// Whether all queued work is done.
    public func isIdle() throws(CUDAError) -> Bool {
        let code = try device.current().pointee.cuStreamQuery(handle)
        if Int(code) == APUS_CUDA_NOT_READY { return false }
        try check("cuStreamQuery", code)
        return true
    }

    /// Lets work queued after this wait for the event; the calling thread does not wait.
    public func wait(for event: CUDAEvent) throws(CUDAError) {
        try check("cuStreamWaitEvent", try device.current().pointee.cuStreamWaitEvent(handle, event.handle, 0))
    }
}
