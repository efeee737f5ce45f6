import ApusSynchronization
/// Memory of a GPU, given back to the allocator when the last reference goes.
///
/// It may go while work that uses it is still queued on its stream: the allocator reuses memory in stream order. Where
/// another stream uses it too, ``used(on:)`` says so.
public final class CUDABuffer: Sendable {
    /// Address on the GPU, a multiple of 512.
    public let address: UInt64
    /// Size as asked for, in bytes.
    public let byteCount: Int
    /// The stream in whose order the memory is reused.
    public let stream: CUDAStream
    private let block: CUDAAllocator.Block
    private let users = Locked<[CUDAStream]>([])

    /// Uninitialised memory for work on `stream`. Throws ``CUDAError/outOfMemory(requested:free:total:cached:inUse:)``.
    public init(byteCount: Int, stream: CUDAStream) throws {
        block = try stream.device.allocator.allocate(byteCount: byteCount, stream: stream.key)
        address = block.address
        self.byteCount = byteCount
        self.stream = stream
    }

    deinit {
        let users = users.withLock { $0 }
        stream.device.allocator.release(block, usedBy: users.map(\.key))
    }

    /// Says that work on another stream uses the buffer: its memory is not reused before that work is done.
    public func used(on other: CUDAStream) {
        guard other !== stream else { return }
        users.withLock { users in
            if !users.contains(where: { $0 === other }) { users.append(other) }
        }
    }

    func check(_ operation: String, offset: Int, count: Int) throws(CUDAError) {
        guard offset >= 0, count >= 0, offset <= byteCount, count <= byteCount - offset else {
            throw .range(operation: operation, offset: offset, count: count, size: byteCount)
        }
    }
}
