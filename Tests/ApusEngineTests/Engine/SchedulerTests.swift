import ApusEngine
import Testing

/// A linear congruential generator: the same sequence every time.
private struct Random {
    var state: UInt64

    mutating func below(_ limit: Int) -> Int {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return Int((state >> 33) % UInt64(limit))
    }
}

/// A memory that holds what was written where, as the model's cache would: each place remembers the tokens up to it.
private struct PageMemory {
    private var cells: [Int: [Int32]] = [:]
    let pageSize: Int

    init(pageSize: Int) { self.pageSize = pageSize }

    mutating func copy(from: Int32, to: Int32) {
        for slot in 0..<pageSize { cells[Int(to) * pageSize + slot] = cells[Int(from) * pageSize + slot] }
    }

    mutating func write(_ sequence: ScheduledSequence, position: Int, prefix: ArraySlice<Int32>) {
        cells[Int(sequence.pages[position / pageSize]) * pageSize + position % pageSize] = Array(prefix)
    }

    func read(_ sequence: ScheduledSequence, position: Int) -> [Int32]? {
        cells[Int(sequence.pages[position / pageSize]) * pageSize + position % pageSize]
    }
}

@Suite struct SchedulerTests {
    /// Random requests with shared beginnings, samples, drafts, cancellation and too few pages; after every step each running
    /// sequence must find its own tokens on its pages, and the pool must count right.
    @Test(arguments: [1, 2, 4, 16])
    func everySequenceReadsItsOwnTokens(_ pageSize: Int) throws {
        var random = Random(state: UInt64(pageSize))
        let limits = Scheduler.Limits(stepTokens: 24, maxSequences: 6, pages: 96 / pageSize + 2, pageSize: pageSize)
        var scheduler = Scheduler(limits)
        var memory = PageMemory(pageSize: pageSize)
        var goals: [ObjectIdentifier: Int] = [:]
        var live: [ScheduledSequence] = []
        var arrival = 0
        var finished = 0
        for _ in 0..<6000 {
            if scheduler.waiting.count < 4, random.below(3) == 0 {
                // Few different beginnings, so that many pages are found.
                let length = 1 + random.below(40)
                let tokens = (0..<length).map { Int32($0 * 3 + (length > 20 ? 0 : random.below(2))) }
                arrival += 1
                let sequence = ScheduledSequence(
                    order: .init(level: Double(random.below(3)), arrival: arrival), tokens: tokens,
                    forks: random.below(4) == 0 ? random.below(4) : 0,
                    prefixUse: [.readWrite, .readWrite, .write, .none][random.below(4)])
                goals[ObjectIdentifier(sequence)] = length + 1 + random.below(40)
                live.append(sequence)
                scheduler.add(sequence)
            }
            for sequence in scheduler.running
            where sequence.remaining == 1 && sequence.forks == 0 && random.below(2) == 0 {
                sequence.drafts = (0..<random.below(4)).map { _ in Int32(random.below(3)) }
            }
            let plan = scheduler.schedule()
            #expect(plan.tokens <= limits.stepTokens)
            #expect(scheduler.isIdle || !plan.entries.isEmpty, "something runs in every step")
            for (from, to) in plan.copies { memory.copy(from: from, to: to) }
            var written = Set<Int32>()
            for entry in plan.entries {
                let sequence = entry.sequence
                let all = sequence.tokens[..<(entry.start + entry.count)] + sequence.drafts.prefix(entry.drafts)
                for position in entry.start..<entry.start + entry.count + entry.drafts {
                    let page = sequence.pages[position / pageSize]
                    #expect(scheduler.pool.holderCount(page) == 1, "who writes holds the page alone")
                    memory.write(sequence, position: position, prefix: all[...position])
                }
                for index in entry.start / pageSize...(entry.start + entry.count + entry.drafts - 1) / pageSize {
                    #expect(written.insert(sequence.pages[index]).inserted, "no page is written by two")
                }
            }
            for entry in plan.entries {
                let sequence = entry.sequence
                let accepted = Array(sequence.drafts.prefix(entry.drafts == 0 ? 0 : random.below(entry.drafts + 1)))
                guard entry.reachesEnd else {
                    scheduler.advance(sequence, to: entry.start + entry.count)
                    continue
                }
                if entry.drafts == 0 { scheduler.advance(sequence, to: sequence.tokens.count) }
                var drawers = [sequence]
                for _ in 0..<sequence.forks {
                    let fork = scheduler.fork(sequence)
                    goals[ObjectIdentifier(fork)] = sequence.tokens.count + 1 + random.below(20)
                    live.append(fork)
                    drawers.append(fork)
                }
                for (index, drawer) in drawers.enumerated() {
                    scheduler.append(accepted + [Int32(random.below(3) + index)], to: drawer)
                    scheduler.advance(drawer, to: drawer.tokens.count - 1)
                    if drawer.tokens.count >= min(goals[ObjectIdentifier(drawer)]!, 90) || random.below(50) == 0 {
                        scheduler.finish(drawer)
                        finished += 1
                    }
                }
            }
            if random.below(40) == 0, let victim = scheduler.waiting.first ?? scheduler.running.first {
                scheduler.finish(victim)
            }
            if random.below(300) == 0 { scheduler.invalidate() }
            if random.below(200) == 0, let sequence = scheduler.running.first { scheduler.forget(sequence) }
            live.removeAll { $0.state == .finished }
            #expect(scheduler.inconsistency() == nil)
            for sequence in scheduler.running {
                for position in 0..<sequence.computed {
                    #expect(
                        memory.read(sequence, position: position) == Array(sequence.tokens[...position]),
                        "position \(position) of a sequence holds another's tokens")
                }
            }
        }
        #expect(finished > 300)
        #expect(scheduler.counts.preemptions > 20)
        #expect(scheduler.counts.prefixHits > 500)
        while let sequence = scheduler.running.first ?? scheduler.waiting.first { scheduler.finish(sequence) }
        #expect(scheduler.pool.heldCount == 0)
    }

    /// A million random operations on the pool alone.
    @Test func noPageIsLostOverAMillionOperations() {
        var random = Random(state: 7)
        var pool = PagePool(capacity: 64, pageSize: 2)
        // Each holder has a chain of pages, given back last page first as sequences do.
        var chains: [(pages: [Int32], end: PagePool.Chain, registered: Int)] = Array(
            repeating: ([], 0, 0), count: 12)
        for operation in 0..<1_000_000 {
            let index = random.below(chains.count)
            switch random.below(8) {
            case 0...2:
                if let page = pool.take() { chains[index].pages.append(page) }
            case 3, 4:
                let registered = chains[index].registered
                guard registered < chains[index].pages.count else { continue }
                let tokens: [Int32] = [Int32(random.below(3)), Int32(registered)]
                let (page, end) = pool.register(
                    chains[index].pages[registered], tokens: tokens[...], after: chains[index].end)
                chains[index].pages[registered] = page
                (chains[index].end, chains[index].registered) = (end, registered + 1)
            case 5:
                for page in chains[index].pages.reversed() { pool.release(page) }
                let wanted = (0..<4).flatMap { [Int32(random.below(3)), Int32($0)] }
                let (pages, end) = pool.find(wanted, limit: 4)
                for page in pages { pool.retain(page) }
                chains[index] = (pages, end, pages.count)
            case 6:
                for page in chains[index].pages.reversed() { pool.release(page) }
                chains[index] = ([], 0, 0)
            default:
                guard random.below(100) == 0, !chains[index].pages.isEmpty else { continue }
                pool.forget(chains[index].pages[random.below(chains[index].pages.count)])
            }
            if operation % 1000 == 0 { #expect(pool.inconsistency(tables: chains.map(\.pages)) == nil) }
        }
        #expect(pool.inconsistency(tables: chains.map(\.pages)) == nil)
        for chain in chains { for page in chain.pages.reversed() { pool.release(page) } }
        #expect(pool.availableCount == 64)
    }

    @Test func lowPriorityLosesItsPagesFirstAndTheLatestAmongEquals() {
        var scheduler = Scheduler(.init(stepTokens: 64, maxSequences: 8, pages: 6, pageSize: 4))
        let sequences = [(0, 1), (1, 2), (0, 3)].map { priority, arrival in
            ScheduledSequence(
                order: .init(level: Double(priority), arrival: arrival),
                tokens: (0..<4).map { Int32($0 + arrival * 10) }, prefixUse: .none)
        }
        for sequence in sequences { scheduler.add(sequence) }
        var preempted: [Int] = []
        while preempted.count < 2 {
            let plan = scheduler.schedule()
            preempted += plan.preempted.map { $0.order.arrival }
            for entry in plan.entries {
                if entry.reachesEnd { scheduler.append([0], to: entry.sequence) }
                scheduler.advance(entry.sequence, to: entry.start + entry.count)
            }
        }
        #expect(preempted == [2, 3])
    }

    /// A large prompt waits for pages; small ones that come later must not overtake it for ever.
    @Test func nobodyOvertakesTheFirstThatWaits() {
        var scheduler = Scheduler(.init(stepTokens: 32, maxSequences: 8, pages: 8, pageSize: 4))
        func request(_ arrival: Int, _ count: Int) -> ScheduledSequence {
            ScheduledSequence(
                order: .init(level: 0, arrival: arrival), tokens: Array(repeating: Int32(arrival % 7), count: count),
                prefixUse: .none)
        }
        for arrival in 0..<3 { scheduler.add(request(arrival, 4)) }
        _ = scheduler.schedule()
        let large = request(3, 30)
        scheduler.add(large)
        for arrival in 4..<200 {
            scheduler.add(request(arrival, 4))
            let plan = scheduler.schedule()
            if large.state != .waiting { break }
            for entry in plan.entries { scheduler.advance(entry.sequence, to: entry.start + entry.count) }
            if let first = scheduler.running.first { scheduler.finish(first) }
        }
        #expect(large.state == .running)
    }

    @Test func decodingGoesOnWhileAPromptIsComputedInPieces() {
        var scheduler = Scheduler(.init(stepTokens: 8, maxSequences: 4, pages: 64, pageSize: 4))
        let short = ScheduledSequence(order: .init(level: 0, arrival: 0), tokens: [1, 2])
        let long = ScheduledSequence(order: .init(level: 0, arrival: 1), tokens: (0..<50).map { Int32($0) })
        scheduler.add(short)
        scheduler.add(long)
        var steps = 0
        while long.remaining > 0 {
            let plan = scheduler.schedule()
            #expect(plan.entries.contains { $0.sequence === short }, "no step leaves the stream out")
            for entry in plan.entries {
                if entry.reachesEnd, entry.sequence === short { scheduler.append([9], to: short) }
                scheduler.advance(entry.sequence, to: entry.start + entry.count)
            }
            steps += 1
        }
        #expect(steps == 8)
    }
}
