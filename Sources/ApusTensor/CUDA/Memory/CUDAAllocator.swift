import ApusSynchronization
/// Memory of a GPU, handed out in size classes and kept for reuse when it comes back.
///
/// Reuse follows the order of streams: a block that comes back is given to the next request on the same stream at once,
/// since what was queued before is done before what is queued after. Another stream gets it by waiting for a mark. A block
/// that other streams used too rests until they are past it. While a stream records a graph, its requests are served from
/// blocks that then belong to the graph.
///
/// When the GPU has no memory left, everything cached is given back, and the request is tried again; if that fails too it
/// ends in ``CUDAError/outOfMemory(requested:free:total:cached:inUse:)``, and nothing is lost.
public final class CUDAAllocator: Sendable {
    /// What the allocator holds, in bytes.
    public struct Statistics: Sendable, Equatable {
        /// In buffers that are alive.
        public var inUse = 0
        /// Kept for reuse.
        public var cached = 0
        /// The most that was ever in use.
        public var peak = 0
        /// Calls of the driver for new memory.
        public var driverAllocations = 0
    }

    /// A piece of memory lent to a buffer.
    package struct Block: Sendable {
        package let address: UInt64
        /// At least what was asked for.
        package let byteCount: Int
        let segment: CUDASegment
        let owner: Owner
        let stream: UInt
    }

    /// Whose work a cached block may be given to without waiting.
    enum Owner: Hashable, Sendable {
        case anyone
        case stream(UInt)
        case graph(Int)

        var isGraph: Bool {
            if case .graph = self { return true }
            return false
        }
    }

    private let memory: any CUDADeviceMemory
    private let state = Locked(CUDABlockLists())

    package init(memory: any CUDADeviceMemory) {
        self.memory = memory
    }

    /// What the allocator holds now.
    public var statistics: Statistics { state.withLock { $0.statistics } }

    /// Memory for work on `stream`. Throws `CUDAError.outOfMemory`, or what the driver says.
    package func allocate(byteCount: Int, stream: UInt) throws -> Block {
        try state.withLock { lists in
            guard let size = CUDASizeClass.size(for: byteCount) else {
                throw outOfMemory(requested: byteCount, lists.statistics)
            }
            let owner = lists.owner(on: stream)
            lists.wake(memory)
            if let block = lists.take(size: size, for: owner, stream: stream) { return block }
            if case .stream = owner, let block = try lists.steal(size: size, for: stream, memory) { return block }

            let count = CUDASizeClass.blocksPerSegment(size: size)
            let bytes = count == 1 ? size : CUDASizeClass.segmentBytes
            var address = try memory.allocate(byteCount: bytes)
            if address == nil {
                lists.releaseCached(memory)
                address = try memory.allocate(byteCount: bytes)
            }
            guard let address else { throw outOfMemory(requested: byteCount, lists.statistics) }
            let segment = CUDASegment(address: address, byteCount: bytes, blockSize: size, blockCount: count)
            lists.add(segment, for: owner)
            return lists.take(size: size, for: owner, stream: stream)!
        }
    }

    /// Takes a block back. `usedBy`: other streams that may still work on it.
    package func release(_ block: Block, usedBy streams: [UInt]) {
        state.withLock { $0.put(block, usedBy: streams, memory) }
    }

    /// Gives all cached memory back to the driver, except what graphs own. Waits for the GPU.
    public func releaseCached() {
        state.withLock { $0.releaseCached(memory) }
    }

    /// Marks the stream as recording a graph; its requests are served from the graph's own blocks. Gives the graph's number.
    package func beginCapture(stream: UInt) -> Int {
        state.withLock { $0.beginCapture(stream) }
    }

    /// Ends the recording, if there is one.
    package func endCapture(stream: UInt) {
        state.withLock { $0.endCapture(stream) }
    }

    /// Frees a graph's blocks for anyone. No launch of it is running.
    package func retire(capture: Int) {
        state.withLock { $0.retire(capture: capture) }
    }

    /// Frees a stream's blocks for anyone, once its queued work is done. All of them are cached.
    package func retire(stream: UInt) {
        state.withLock { $0.retire(stream: stream, memory) }
    }

    private func outOfMemory(requested: Int, _ statistics: Statistics) -> CUDAError {
        let (free, total) = memory.available()
        return .outOfMemory(
            requested: requested, free: free, total: total, cached: statistics.cached, inUse: statistics.inUse)
    }
}
