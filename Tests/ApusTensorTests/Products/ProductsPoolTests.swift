import CApusKernels
import Synchronization
import Testing

/// Counts how often each index of a run was visited, and by workers inside the pool.
private final class Visits: @unchecked Sendable {
    let counts: UnsafeMutablePointer<UInt8>
    let count: Int
    let pool: OpaquePointer
    let strangers = Atomic<Int>(0)

    init(_ count: Int, pool: OpaquePointer) {
        self.count = count
        self.pool = pool
        counts = .allocate(capacity: max(count, 1))
        counts.initialize(repeating: 0, count: max(count, 1))
    }

    deinit { counts.deallocate() }

    var eachOnce: Bool { (0..<count).allSatisfy { counts[$0] == 1 } && strangers.load(ordering: .relaxed) == 0 }

    func run(grain: Int, nested: Bool = false) {
        let function: apus_range_fn =
            nested
            ? { context, begin, end, worker in
                let visits = Unmanaged<Visits>.fromOpaque(context!).takeUnretainedValue()
                let inner = Visits(Int(end - begin), pool: visits.pool)
                inner.run(grain: 1)
                for i in 0..<inner.count { visits.counts[Int(begin) + i] &+= inner.counts[i] }
                visits.note(worker)
            }
            : { context, begin, end, worker in
                let visits = Unmanaged<Visits>.fromOpaque(context!).takeUnretainedValue()
                for i in Int(begin)..<Int(end) { visits.counts[i] &+= 1 }
                visits.note(worker)
            }
        apus_pool_run(pool, Int64(count), Int64(grain), function, Unmanaged.passUnretained(self).toOpaque())
    }

    private func note(_ worker: Int32) {
        if worker < 0 || worker >= apus_pool_threads(pool) { strangers.add(1, ordering: .relaxed) }
        let scratch = apus_pool_scratch(pool, worker, 100 + Int(worker) * 1000)
        if scratch == nil || Int(bitPattern: scratch) % 64 != 0 { strangers.add(1, ordering: .relaxed) }
    }
}

extension ProductsSuite {
    @Test(arguments: [1, 2, 3, 4, 9])
    func everyIndexRunsOnce(threads: Int) {
        withPool(threads: threads) { pool in
            #expect(apus_pool_threads(pool) == Int32(threads))
            for round in 0..<40 {
                for (count, grain) in [(0, 1), (1, 1), (2, 1), (7, 3), (100, 1), (1000, 7), (5, 100), (threads, 1)] {
                    let visits = Visits(count, pool: pool)
                    visits.run(grain: grain)
                    #expect(visits.eachOnce, "\(count) by \(grain), round \(round)")
                }
            }
        }
    }

    @Test func manyShortRunsFollowEachOther() {
        withPool(threads: 3) { pool in
            let visits = Visits(6, pool: pool)
            for round in 1...20_000 {
                visits.run(grain: 1)
                let expected = UInt8(truncatingIfNeeded: round)
                let complete = (0..<6).allSatisfy { visits.counts[$0] == expected }
                if !complete {
                    Issue.record("round \(round) lost work")
                    return
                }
            }
        }
    }

    @Test func nestedRunsAreInline() {
        withPool(threads: 4) { pool in
            let visits = Visits(500, pool: pool)
            visits.run(grain: 9, nested: true)
            #expect(visits.eachOnce)
        }
    }

    @Test func callersOfSeveralThreadsTakeTurns() async {
        let pool = apus_pool_create(2)!
        let address = UInt(bitPattern: pool)
        await withTaskGroup(of: Bool.self) { group in
            for _ in 0..<4 {
                group.addTask {
                    (0..<200).allSatisfy { _ in
                        let visits = Visits(64, pool: OpaquePointer(bitPattern: address)!)
                        visits.run(grain: 4)
                        return visits.eachOnce
                    }
                }
            }
            for await complete in group { #expect(complete) }
        }
        apus_pool_destroy(pool)
    }

    @Test func productsFromInsideARunAreRight() {
        var random = SplitMix(state: 21)
        withPool(threads: 3) { pool in
            let weight = TestWeight(ProductType.all[5], rows: 40, columns: 64, pool: pool, random: &random)
            let x = StridedRows(rows: 9, width: 64, random: &random)
            let expected = linear(pool, APUS_PRECISION_DEFAULT, x, weight)
            struct Job {
                let pool: OpaquePointer
                let weight: OpaquePointer
                let x: UnsafePointer<Float>
                let stride: Int64
                let out: UnsafeMutablePointer<Float>
            }
            let out = UnsafeMutablePointer<Float>.allocate(capacity: 8 * 9 * 40)
            defer { out.deallocate() }
            x.values.withUnsafeBufferPointer { values in
                var job = Job(
                    pool: pool, weight: weight.handle, x: values.baseAddress!, stride: Int64(x.stride), out: out)
                apus_pool_run(
                    pool, 8, 1,
                    { context, begin, end, _ in
                        let job = context!.load(as: Job.self)
                        for i in begin..<end {
                            var output = apus_linear_output(
                                weight: job.weight, out: job.out + Int(i) * 360, out_stride: 40, bias: nil,
                                accumulate: 0)
                            _ = apus_linear(job.pool, APUS_PRECISION_DEFAULT, job.x, 9, job.stride, &output, 1)
                        }
                    }, &job)
            }
            let same = (0..<8 * 9).allSatisfy { t in
                (0..<40).allSatisfy { out[t * 40 + $0] == expected.values[t % 9 * expected.stride + $0] }
            }
            #expect(same)
        }
    }

    @Test func aPoolIsMadeForTheMachine() {
        withPool(threads: 0) { pool in #expect(apus_pool_threads(pool) >= 1) }
        #expect(!String(cString: apus_cpu_features()).isEmpty)
    }

    @Test func anInstructionSetIsChosenForOneThread() {
        let best = String(cString: apus_isa())
        #expect(apus_select_isa("no such instruction set") == -1)
        #expect(String(cString: apus_isa()) == best)
        #expect(apus_select_isa("portable") == 0)
        #expect(String(cString: apus_isa()) == "portable")
        // What each of two workers runs on: this thread, and one of the pool's own.
        var seen = [UnsafePointer<CChar>?](repeating: nil, count: 2)
        withPool(threads: 2) { pool in
            apus_pool_run(
                pool, 64, 1,
                { context, _, _, worker in
                    context!.assumingMemoryBound(to: UnsafePointer<CChar>?.self)[Int(worker)] = apus_isa()
                }, &seen)
        }
        #expect(seen[0].map { String(cString: $0) } ?? "portable" == "portable")
        #expect(seen[1].map { String(cString: $0) } ?? best == best)
        #expect(apus_select_isa("best") == 0)
        #expect(String(cString: apus_isa()) == best)
    }
}
