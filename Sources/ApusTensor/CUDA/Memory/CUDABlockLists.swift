/// One allocation of the driver, cut into blocks of one size. Changed under the allocator's lock only.
final class CUDASegment: @unchecked Sendable {
    let address: UInt64
    let byteCount: Int
    let blockSize: Int
    let blockCount: Int
    var freeCount: Int

    init(address: UInt64, byteCount: Int, blockSize: Int, blockCount: Int) {
        self.address = address
        self.byteCount = byteCount
        self.blockSize = blockSize
        self.blockCount = blockCount
        freeCount = blockCount
    }
}

/// The allocator's books: which blocks are cached, and for whom. Every function is called under the allocator's lock.
struct CUDABlockLists {
    private struct Free {
        let address: UInt64
        let segment: CUDASegment
    }

    private struct Resting {
        let block: Free
        let owner: CUDAAllocator.Owner
        var events: [UInt]
    }

    private(set) var statistics = CUDAAllocator.Statistics()
    private var cached: [CUDAAllocator.Owner: [Int: [Free]]] = [:]
    private var resting: [Resting] = []
    // Blocks of a graph that another stream used while it was recorded: nobody can tell when, so they wait for its end.
    private var held: [Int: [Resting]] = [:]
    private var capturing: [UInt: Int] = [:]
    private var liveCaptures: Set<Int> = []
    private var captureCount = 0

    /// Whose blocks a request on the stream is served from.
    func owner(on stream: UInt) -> CUDAAllocator.Owner {
        capturing[stream].map { .graph($0) } ?? .stream(stream)
    }

    // MARK: Taking

    /// A cached block that may be used without waiting.
    mutating func take(size: Int, for owner: CUDAAllocator.Owner, stream: UInt) -> CUDAAllocator.Block? {
        for source in [owner, .anyone] {
            if let free = pop(size: size, from: source) { return lend(free, to: owner, stream) }
        }
        return nil
    }

    /// A block that another stream has given back; `stream` waits for what that one has queued.
    mutating func steal(
        size: Int, for stream: UInt, _ memory: any CUDADeviceMemory
    ) throws -> CUDAAllocator.Block? {
        for case .stream(let other) in Array(cached.keys) where other != stream && capturing[other] == nil {
            guard let free = pop(size: size, from: .stream(other)) else { continue }
            do {
                let event = try memory.record(stream: other)
                defer { memory.destroy(event: event) }
                try memory.wait(stream: stream, for: event)
            } catch {
                cached[.stream(other), default: [:]][free.segment.blockSize, default: []].append(free)
                throw error
            }
            return lend(free, to: .stream(stream), stream)
        }
        return nil
    }

    private mutating func pop(size: Int, from owner: CUDAAllocator.Owner) -> Free? {
        guard let lists = cached[owner] else { return nil }
        let largest = CUDASizeClass.largestFit(size: size)
        let fit = largest == size ? size : lists.keys.filter { (size...largest).contains($0) }.min() ?? size
        guard let free = cached[owner]?[fit]?.popLast() else { return nil }
        if cached[owner]?[fit]?.isEmpty == true { cached[owner]?[fit] = nil }
        if cached[owner]?.isEmpty == true { cached[owner] = nil }
        return free
    }

    private mutating func lend(
        _ free: Free, to owner: CUDAAllocator.Owner, _ stream: UInt
    ) -> CUDAAllocator.Block {
        let size = free.segment.blockSize
        free.segment.freeCount -= 1
        statistics.cached -= size
        statistics.inUse += size
        statistics.peak = max(statistics.peak, statistics.inUse)
        return CUDAAllocator.Block(
            address: free.address, byteCount: size, segment: free.segment, owner: owner, stream: stream)
    }

    /// Puts the blocks of a new segment into the owner's list.
    mutating func add(_ segment: CUDASegment, for owner: CUDAAllocator.Owner) {
        let blocks = (0..<segment.blockCount).reversed().map {
            Free(address: segment.address + UInt64($0 * segment.blockSize), segment: segment)
        }
        cached[owner, default: [:]][segment.blockSize, default: []] += blocks
        statistics.cached += segment.blockCount * segment.blockSize
        statistics.driverAllocations += 1
    }

    // MARK: Giving back

    mutating func put(_ block: CUDAAllocator.Block, usedBy streams: [UInt], _ memory: any CUDADeviceMemory) {
        let size = block.segment.blockSize
        block.segment.freeCount += 1
        statistics.inUse -= size
        statistics.cached += size
        let free = Free(address: block.address, segment: block.segment)
        guard case .graph(let capture) = block.owner else {
            rest(free, for: block.owner, streams, memory)
            return
        }
        if !liveCaptures.contains(capture) {
            // The graph's launches are done, but its stream may have been given work on the buffer since.
            rest(free, for: .anyone, streams + [block.stream], memory)
        } else if streams.isEmpty {
            file(free, for: block.owner)
        } else {
            held[capture, default: []].append(Resting(block: free, owner: .anyone, events: []))
        }
    }

    private mutating func file(_ free: Free, for owner: CUDAAllocator.Owner) {
        cached[owner, default: [:]][free.segment.blockSize, default: []].append(free)
    }

    /// Files the block once the streams are past what they have queued.
    private mutating func rest(
        _ free: Free, for owner: CUDAAllocator.Owner, _ streams: [UInt], _ memory: any CUDADeviceMemory
    ) {
        var entry = Resting(block: free, owner: owner, events: [])
        for stream in streams where capturing[stream] == nil {
            if let event = try? memory.record(stream: stream) {
                entry.events.append(event)
            } else {
                // No mark can be set there: waiting for everything is always right.
                memory.synchronize()
            }
        }
        if let capture = streams.compactMap({ capturing[$0] }).first {
            held[capture, default: []].append(entry)
        } else {
            settle(entry)
        }
    }

    private mutating func settle(_ entry: Resting) {
        if entry.events.isEmpty { file(entry.block, for: entry.owner) } else { resting.append(entry) }
    }

    /// Files the resting blocks whose streams are past them.
    mutating func wake(_ memory: any CUDADeviceMemory) {
        guard !resting.isEmpty else { return }
        let entries = resting
        resting = []
        for var entry in entries {
            entry.events.removeAll { event in
                guard memory.isComplete(event: event) else { return false }
                memory.destroy(event: event)
                return true
            }
            settle(entry)
        }
    }

    /// Gives back every segment of which all blocks are cached, and none for a graph. While a stream records a graph the
    /// GPU cannot be waited for, and nothing is given back.
    mutating func releaseCached(_ memory: any CUDADeviceMemory) {
        guard capturing.isEmpty else { return }
        memory.synchronize()
        wake(memory)
        var counts: [UInt64: Int] = [:]
        for (owner, lists) in cached where !owner.isGraph {
            for block in lists.values.joined() { counts[block.segment.address, default: 0] += 1 }
        }
        var released: [UInt64: Int] = [:]
        for owner in Array(cached.keys) where !owner.isGraph {
            cached[owner] = cached[owner]?.compactMapValues { blocks in
                let kept = blocks.filter { block in
                    guard counts[block.segment.address] == block.segment.blockCount else { return true }
                    released[block.segment.address] = block.segment.blockCount * block.segment.blockSize
                    return false
                }
                return kept.isEmpty ? nil : kept
            }
            if cached[owner]?.isEmpty == true { cached[owner] = nil }
        }
        for (address, byteCount) in released {
            memory.free(address)
            statistics.cached -= byteCount
        }
    }

    // MARK: Graphs and streams

    mutating func beginCapture(_ stream: UInt) -> Int {
        captureCount += 1
        capturing[stream] = captureCount
        liveCaptures.insert(captureCount)
        return captureCount
    }

    mutating func endCapture(_ stream: UInt) {
        capturing[stream] = nil
    }

    mutating func retire(capture: Int) {
        liveCaptures.remove(capture)
        hand(.graph(capture))
        for entry in held.removeValue(forKey: capture) ?? [] { settle(entry) }
    }

    mutating func retire(stream: UInt, _ memory: any CUDADeviceMemory) {
        let owner = CUDAAllocator.Owner.stream(stream)
        guard let lists = cached.removeValue(forKey: owner) else { return }
        for free in lists.values.joined() { rest(free, for: .anyone, [stream], memory) }
    }

    /// Moves all of an owner's blocks to everyone's list.
    private mutating func hand(_ owner: CUDAAllocator.Owner) {
        for (size, blocks) in cached.removeValue(forKey: owner) ?? [:] {
            cached[.anyone, default: [:]][size, default: []] += blocks
        }
    }
}
