import ApusSynchronization
import CApusCUDA

/// A recorded sequence of work on a stream, launched again and again with one call.
///
/// Memory that is allocated on the stream while it records belongs to the graph: it is not given to anybody else as long
/// as the graph lives, since each launch uses it again. Buffers from outside that the recorded work uses must be kept by
/// the caller, or be named in `keeping`.
public final class CUDAGraph: Sendable {
    /// The GPU it belongs to.
    public let device: CUDADevice
    /// Recorded nodes: kernels, copies, fills.
    public let nodeCount: Int
    // Created in init and destroyed in deinit only; launches go through the driver, which locks.
    private nonisolated(unsafe) let executable: apus_cuda_graph_exec
    private let capture: Int
    private let keeping: [any AnyObject & Sendable]
    private let streams = Locked<[CUDAStream]>([])

    /// Records what `body` queues on `stream` (and on streams that wait for its events), without running it.
    public init(
        recording stream: CUDAStream, keeping: [any AnyObject & Sendable] = [], _ body: () throws -> Void
    ) throws {
        let device = stream.device
        let driver = device.driver
        let cu = try device.current()
        let capture = device.allocator.beginCapture(stream: stream.key)
        var graph: apus_cuda_graph?
        do {
            try stream.check(
                "cuStreamBeginCapture",
                cu.pointee.cuStreamBeginCapture(stream.handle, Int32(APUS_CUDA_CAPTURE_RELAXED)))
            do {
                try body()
            } catch {
                _ = try? device.current().pointee.cuStreamEndCapture(stream.handle, &graph)
                throw error
            }
            try stream.check(
                "cuStreamEndCapture", try device.current().pointee.cuStreamEndCapture(stream.handle, &graph))
            device.allocator.endCapture(stream: stream.key)
        } catch {
            if let graph { _ = cu.pointee.cuGraphDestroy(graph) }
            device.allocator.endCapture(stream: stream.key)
            device.allocator.retire(capture: capture)
            throw error
        }
        var executable: apus_cuda_graph_exec?
        var count = 0
        do {
            defer { _ = cu.pointee.cuGraphDestroy(graph) }
            try driver.check("cuGraphGetNodes", cu.pointee.cuGraphGetNodes(graph, nil, &count))
            try driver.check(
                "cuGraphInstantiateWithFlags", cu.pointee.cuGraphInstantiateWithFlags(&executable, graph, 0))
        } catch {
            device.allocator.retire(capture: capture)
            throw error
        }
        self.device = device
        self.executable = executable!
        self.capture = capture
        self.keeping = keeping
        nodeCount = count
    }

    deinit {
        for stream in streams.withLock({ $0 }) { try? stream.synchronize() }
        if let cu = try? device.current() { _ = cu.pointee.cuGraphExecDestroy(executable) }
        device.allocator.retire(capture: capture)
    }

    /// Queues the recorded work on a stream.
    public func launch(on stream: CUDAStream) throws(CUDAError) {
        streams.withLock { streams in
            if !streams.contains(where: { $0 === stream }) { streams.append(stream) }
        }
        try stream.check("cuGraphLaunch", try device.current().pointee.cuGraphLaunch(executable, stream.handle))
    }
}
