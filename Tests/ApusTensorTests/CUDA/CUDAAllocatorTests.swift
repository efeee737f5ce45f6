import ApusTensor
import Testing

@Suite struct CUDAAllocatorTests {
    private let mebibyte = 1 << 20

    @Test func reusesInStreamOrder() throws {
        let gpu = SimulatedGPU(capacity: 1 << 30, seed: 1)
        let allocator = CUDAAllocator(memory: gpu)
        let first = try allocator.allocate(byteCount: 3 * mebibyte, stream: 1)
        allocator.release(first, usedBy: [])
        let second = try allocator.allocate(byteCount: 3 * mebibyte, stream: 1)
        #expect(second.address == first.address)
        #expect(allocator.statistics.driverAllocations == 1)
        allocator.release(second, usedBy: [])
        allocator.releaseCached()
        #expect(gpu.allocatedBytes == 0)
        #expect(allocator.statistics.cached == 0)
    }

    @Test func anotherStreamWaits() throws {
        let gpu = SimulatedGPU(capacity: 1 << 30, seed: 1)
        let allocator = CUDAAllocator(memory: gpu)
        let first = try allocator.allocate(byteCount: 3 * mebibyte, stream: 1)
        let number = gpu.work(on: 1)
        allocator.release(first, usedBy: [])
        #expect(!gpu.isOrdered(2, after: number, of: 1))
        let second = try allocator.allocate(byteCount: 3 * mebibyte, stream: 2)
        #expect(second.address == first.address)
        #expect(gpu.isOrdered(2, after: number, of: 1))
        #expect(gpu.liveEvents == 0)
    }

    @Test func smallBlocksShareSegments() throws {
        let gpu = SimulatedGPU(capacity: 1 << 30, seed: 1)
        let allocator = CUDAAllocator(memory: gpu)
        let blocks = try (0..<1000).map { _ in try allocator.allocate(byteCount: 1000, stream: 1) }
        #expect(Set(blocks.map(\.address)).count == 1000)
        #expect(blocks.allSatisfy { $0.address % 512 == 0 })
        #expect(allocator.statistics.driverAllocations == 1)
        #expect(allocator.statistics.inUse == 1_024_000)
    }

    @Test(arguments: [0, 1, 511, 512, 513, 4095, 5000, 100_000, 600_000, 1 << 20, (64 << 20) + 1, 3_000_000_000])
    func waste(byteCount: Int) throws {
        let allocator = CUDAAllocator(memory: SimulatedGPU(capacity: 1 << 40, seed: 1))
        let block = try allocator.allocate(byteCount: byteCount, stream: 1)
        #expect(block.byteCount >= byteCount)
        #expect(block.byteCount % 512 == 0)
        #expect(block.byteCount <= max(byteCount + 512, byteCount + byteCount / 8))
    }

    @Test func outOfMemory() throws {
        let gpu = SimulatedGPU(capacity: 100 * mebibyte, seed: 1)
        let allocator = CUDAAllocator(memory: gpu)
        let kept = try allocator.allocate(byteCount: 30 * mebibyte, stream: 1)
        allocator.release(try allocator.allocate(byteCount: 40 * mebibyte, stream: 1), usedBy: [2])
        // Fits only after the cached 40 MiB are given back.
        let large = try allocator.allocate(byteCount: 60 * mebibyte, stream: 1)
        #expect(allocator.statistics.cached == 0)
        #expect(
            throws: CUDAError.outOfMemory(
                requested: 20 * mebibyte, free: 10 * mebibyte, total: 100 * mebibyte, cached: 0, inUse: 90 * mebibyte)
        ) { try allocator.allocate(byteCount: 20 * mebibyte, stream: 1) }
        for request in [Int.max, Int.max / 2, 1 << 56, -1] {
            #expect(throws: CUDAError.self) { try allocator.allocate(byteCount: request, stream: 1) }
        }
        // What was there before still is, and memory that comes back serves the next request.
        #expect(allocator.statistics.inUse == 90 * mebibyte)
        allocator.release(large, usedBy: [])
        let next = try allocator.allocate(byteCount: 20 * mebibyte, stream: 1)
        for block in [kept, next] { allocator.release(block, usedBy: []) }
        allocator.releaseCached()
        #expect(gpu.allocatedBytes == 0)
        #expect(gpu.violations == [])
    }

    @Test func graphsKeepTheirMemory() throws {
        let gpu = SimulatedGPU(capacity: 1 << 30, seed: 1)
        let allocator = CUDAAllocator(memory: gpu)
        let graph = allocator.beginCapture(stream: 1)
        let inside = try allocator.allocate(byteCount: mebibyte, stream: 1)
        allocator.release(inside, usedBy: [])
        let again = try allocator.allocate(byteCount: mebibyte, stream: 1)
        #expect(again.address == inside.address, "within a recording memory is reused in order")
        allocator.release(again, usedBy: [])
        allocator.endCapture(stream: 1)

        let outside = try allocator.allocate(byteCount: mebibyte, stream: 1)
        #expect(outside.address != inside.address)
        allocator.releaseCached()
        #expect(gpu.contains(inside.address, mebibyte))
        allocator.release(outside, usedBy: [])
        allocator.retire(capture: graph)
        allocator.releaseCached()
        #expect(gpu.allocatedBytes == 0)
    }

    @Test func aBufferOutlivesItsGraph() throws {
        let gpu = SimulatedGPU(capacity: 1 << 30, seed: 1)
        let allocator = CUDAAllocator(memory: gpu)
        let graph = allocator.beginCapture(stream: 1)
        let result = try allocator.allocate(byteCount: 9 * mebibyte, stream: 1)
        allocator.endCapture(stream: 1)
        allocator.retire(capture: graph)
        let number = gpu.work(on: 1)
        allocator.release(result, usedBy: [])
        let next = try allocator.allocate(byteCount: 9 * mebibyte, stream: 2)
        #expect(next.address != result.address || gpu.isOrdered(2, after: number, of: 1))
    }

    /// Random work on several streams, with graphs, ends of streams, and too little memory. Every use of memory must be
    /// ordered behind all earlier uses of it, buffers must not overlap, and in the end nothing may be left.
    @Test(arguments: 0..<40)
    func randomSequences(seed: Int) throws {
        var random = SplitMix(state: UInt64(seed) &* 7919)
        let gpu = SimulatedGPU(capacity: 200 << 20, seed: UInt64(seed))
        let allocator = CUDAAllocator(memory: gpu)
        var model = Model(gpu: gpu, allocator: allocator)
        for _ in 0..<600 {
            try model.step(&random)
            try #require(gpu.violations == [])
        }
        model.finish()
        #expect(gpu.violations == [])
        #expect(gpu.allocatedBytes == 0)
        #expect(gpu.liveEvents == 0)
        let left = allocator.statistics
        #expect(left.inUse == 0)
        #expect(left.cached == 0)
        #expect(left.peak > 0)
    }

    /// What a program does with the allocator, and what it relies on.
    private struct Model {
        struct Live {
            let block: CUDAAllocator.Block
            let stream: UInt
            var users: Set<UInt> = []
            var uses: [(stream: UInt, number: Int)] = []
        }

        let gpu: SimulatedGPU
        let allocator: CUDAAllocator
        var live: [Live] = []
        /// Uses of memory that has been given back, by address range.
        var past: [(range: Range<UInt64>, stream: UInt, number: Int)] = []
        var recording: (stream: UInt, graph: Int)?
        var graphs: [Int] = []
        var owned: [(graph: Int, range: Range<UInt64>)] = []
        var refused = 0

        mutating func step(_ random: inout SplitMix) throws {
            let stream = UInt(1 + random.next(4))
            switch random.next(20) {
            case 0..<8: try allocate(stream, &random)
            case 8..<12 where !live.isEmpty: use(random.next(live.count), on: stream)
            case 12..<16 where !live.isEmpty: release(random.next(live.count))
            case 16 where recording == nil:
                recording = (stream, allocator.beginCapture(stream: stream))
                gpu.setCapturing(stream, true)
            case 17 where recording != nil: endRecording()
            case 18 where recording == nil && !graphs.isEmpty: retire(random.next(graphs.count))
            case 19 where recording == nil && !live.contains { $0.stream == stream || $0.users.contains(stream) }:
                allocator.retire(stream: stream)
            default: break
            }
        }

        private mutating func allocate(_ stream: UInt, _ random: inout SplitMix) throws {
            let sizes = [1, 700, 5_000, 60_000, 400_000, 2 << 20, 9 << 20, 30 << 20, 70 << 20]
            let byteCount = sizes[random.next(sizes.count)] + random.next(100)
            let block: CUDAAllocator.Block
            do {
                block = try allocator.allocate(byteCount: byteCount, stream: stream)
            } catch CUDAError.outOfMemory(let requested, let free, let total, _, let inUse) {
                #expect(requested == byteCount)
                #expect(total == 200 << 20 && free < total)
                #expect(inUse == live.reduce(0) { $0 + $1.block.byteCount })
                refused += 1
                if !live.isEmpty { release(random.next(live.count)) }
                return
            }
            let range = block.address..<block.address + UInt64(block.byteCount)
            #expect(block.byteCount >= byteCount)
            #expect(gpu.contains(block.address, block.byteCount))
            for other in live {
                #expect(!range.overlaps(other.block.address..<other.block.address + UInt64(other.block.byteCount)))
            }
            let graph = recording.flatMap { $0.stream == stream ? $0.graph : nil }
            for owner in owned where owner.range.overlaps(range) { #expect(owner.graph == graph) }
            if let graph {
                owned.append((graph, range))
            } else {
                for use in past where use.range.overlaps(range) {
                    #expect(gpu.isOrdered(stream, after: use.number, of: use.stream))
                }
            }
            live.append(Live(block: block, stream: stream))
            use(live.count - 1, on: stream)
        }

        private mutating func use(_ index: Int, on stream: UInt) {
            if stream != live[index].stream { live[index].users.insert(stream) }
            // Work that is recorded does not run now.
            guard recording?.stream != stream else { return }
            live[index].uses.append((stream, gpu.work(on: stream)))
        }

        private mutating func release(_ index: Int) {
            let gone = live.remove(at: index)
            let range = gone.block.address..<gone.block.address + UInt64(gone.block.byteCount)
            past += gone.uses.map { (range, $0.stream, $0.number) }
            allocator.release(gone.block, usedBy: Array(gone.users))
        }

        private mutating func endRecording() {
            guard let current = recording else { return }
            allocator.endCapture(stream: current.stream)
            gpu.setCapturing(current.stream, false)
            graphs.append(current.graph)
            recording = nil
        }

        private mutating func retire(_ index: Int) {
            let graph = graphs.remove(at: index)
            gpu.synchronize()
            allocator.retire(capture: graph)
            owned.removeAll { $0.graph == graph }
        }

        mutating func finish() {
            endRecording()
            while !live.isEmpty { release(live.count - 1) }
            while !graphs.isEmpty { retire(0) }
            allocator.releaseCached()
        }
    }
}
