import ApusEngine
import ApusPlanning
import ApusServeBenchmark
import Testing

/// A cost that depends on everything a step has.
private struct AnyCost: StepCost {
    var window = Int.max / 4

    func seconds(_ groups: [StepWork]) -> Double {
        groups.reduce(0) {
            max(
                $0,
                1e-3 + 1e-4 * Double($1.tokens) + 1e-6 * Double($1.decodeContext)
                    + 3e-7 * Double($1.windowedDecodeContext) + 2e-7 * Double($1.promptPairs)
                    + 1e-7 * Double($1.windowedPromptPairs + $1.promptCached) + 5e-5 * Double($1.logitRows))
        }
    }
}

/// A linear congruential generator: the same sequence every time.
private struct Random {
    var state: UInt64

    mutating func below(_ limit: Int) -> Int {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return Int((state >> 33) % UInt64(limit))
    }
}

@Suite struct SimulationTests {
    /// Taking plain steps at once gives what taking them one by one gives, to the last bit: every distribution, every count,
    /// the whole timeline. Pages are few enough that sequences lose them, groups and arrivals vary.
    @Test(arguments: 0..<120)
    func spansEqualSingleSteps(seed: Int) throws {
        var random = Random(state: UInt64(seed))
        let pageSize = [1, 4, 16, 64][random.below(4)]
        let prompt = 1...(1 + random.below(200))
        let output = 1...(1 + random.below(300))
        let longest = prompt.upperBound + output.upperBound
        let maxSequences = 1 + random.below(12)
        var limits = Scheduler.Limits(
            stepTokens: maxSequences + random.below(200), maxSequences: maxSequences,
            pages: (longest + pageSize - 1) / pageSize + random.below(4 * longest / pageSize + 2), pageSize: pageSize,
            exactTokens: random.below(2) == 0 ? .max : 1 + random.below(64))
        if random.below(2) == 0 { limits.promptTokensBesideDecoding = 1 + random.below(60) }
        let isTimed = random.below(2) == 0
        let workload = try ServingWorkload(
            prompt: prompt, output: output, count: 1 + random.below(60),
            arrivals: Arrivals(
                rate: isTimed ? 1 + Double(random.below(40)) : nil,
                concurrency: isTimed && random.below(2) == 0 ? nil : 1 + random.below(20)),
            seed: UInt64(seed))
        var simulation = ServingSimulation(
            workload, cost: AnyCost(window: random.below(3) == 0 ? 1 + random.below(300) : .max / 4),
            groups: 1 + random.below(3), limits: limits, roundTrip: Double(random.below(3)) * 7e-4,
            spacing: Double(random.below(2)) * 3e-4)
        let spans = try simulation.run()
        simulation.isStepByStep = true
        let single = try simulation.run()
        #expect(spans == single)
        #expect(spans.ttft.count == workload.lengths.count)
        #expect(spans.ttft.entries.allSatisfy { $0.value > 0 } && spans.e2el.entries.allSatisfy { $0.value > 0 })
        #expect(spans.itl.count == workload.lengths.reduce(0) { $0 + $1.output - 1 })
    }

    /// Some of the cases above have what makes them hard.
    @Test func smallCachesPreempt() throws {
        let workload = try ServingWorkload(
            prompt: 20...20, output: 200...200, count: 12, arrivals: Arrivals(concurrency: 6))
        let limits = Scheduler.Limits(stepTokens: 64, maxSequences: 6, pages: 40, pageSize: 16)
        let result = try ServingSimulation(workload, cost: AnyCost(), limits: limits).run()
        #expect(result.preemptions > 0)
        #expect(result.outputTokens == 12 * 200)
    }

    /// One request alone: its times can be computed by hand.
    @Test func oneRequestTakesWhatItsStepsTake() throws {
        let workload = try ServingWorkload(prompt: 100...100, output: 3...3, count: 1, arrivals: Arrivals())
        let limits = Scheduler.Limits(stepTokens: 64, maxSequences: 4, pages: 10, pageSize: 64)
        let cost = AnyCost()
        let result = try ServingSimulation(workload, cost: cost, limits: limits, roundTrip: 0.5).run()
        var (first, second) = (StepWork(), StepWork())
        first.addPrompt(start: 0, count: 64, window: cost.window, reachesEnd: false)
        second.addPrompt(start: 64, count: 36, window: cost.window, reachesEnd: true)
        let prefill = cost.seconds([first]) + cost.seconds([second])
        let decode = (101...102).map { context -> Double in
            var work = StepWork()
            work.addDecode(context: context, window: cost.window)
            return cost.seconds([work])
        }
        #expect(abs(result.ttft.median - 0.5 - prefill) < 1e-9)
        #expect(abs(result.e2el.median - 0.5 - prefill - decode[0] - decode[1]) < 1e-9)
        #expect(abs(result.tpot.median - (decode[0] + decode[1]) / 2) < 1e-9)
        #expect(result.steps == 4)
    }

    /// With a concurrency, so many run at once, and the next comes when one has ended.
    @Test func placesAreTakenOneAfterAnother() throws {
        let workload = try ServingWorkload(
            prompt: 8...8, output: 10...10, count: 9, arrivals: Arrivals(concurrency: 3))
        let limits = Scheduler.Limits(stepTokens: 64, maxSequences: 64, pages: 100, pageSize: 16)
        let result = try ServingSimulation(workload, cost: AnyCost(), limits: limits).run()
        #expect(result.peakRunning == 3)
        #expect(result.timeline.allSatisfy { $0.running + $0.waiting <= 3 })
        #expect(abs(result.e2el.mean * 9 - result.duration * 3) < 0.2 * result.duration)
    }

    /// The simulated requests are those that the client would send: as long, in the same order.
    @Test(arguments: [0, 0.3, 0.9]) func lengthsAreTheClients(spread: Double) throws {
        let kind = Workload.random(prompt: 40, output: 25, spread: spread)
        for seed in [0, 1, 77] as [UInt64] {
            let sent = try kind.requests(count: 50, from: PromptSource(vocabularySize: 1000), seed: seed)
            let simulated = try ServingWorkload(kind, count: 50, arrivals: Arrivals(), seed: seed)
            #expect(simulated.lengths.map(\.prompt) == sent.map(\.promptTokens))
            #expect(simulated.lengths.map(\.output) == sent.map(\.outputTokens))
        }
    }

    @Test func whatNeverFitsIsRefused() throws {
        let workload = try ServingWorkload(prompt: 100...100, output: 3...3, count: 1, arrivals: Arrivals())
        let limits = Scheduler.Limits(stepTokens: 64, maxSequences: 4, pages: 6, pageSize: 16)
        #expect(throws: PlanningError.requestDoesNotFit(tokens: 103, capacity: 96)) {
            try ServingSimulation(workload, cost: AnyCost(), limits: limits).run()
        }
    }

    /// Against sorting all numbers.
    @Test func percentilesAreThoseOfAllNumbers() {
        var random = Random(state: 7)
        for size in [1, 2, 3, 10, 101] {
            let pairs = (0..<size).map { _ in (value: Double(random.below(50)) / 7, count: 1 + random.below(5)) }
            let all = pairs.flatMap { Array(repeating: $0.value, count: $0.count) }.sorted()
            let distribution = WeightedDistribution(pairs)
            #expect(distribution.count == all.count)
            for share in [0, 0.1, 0.25, 0.5, 0.9, 0.99, 1] {
                let place = share * Double(all.count - 1)
                let index = Int(place)
                let next = min(index + 1, all.count - 1)
                let expected = all[index] + (all[next] - all[index]) * (place - Double(index))
                #expect(abs(distribution.percentile(share) - expected) < 1e-12)
            }
        }
    }

    /// The pairs that a window leaves, against counting them.
    @Test func windowsLeaveTheRightPairs() {
        for window in [1, 5, 17, 100] {
            for start in [0, 3, 16, 40] {
                for count in [1, 2, 9, 33] {
                    var work = StepWork()
                    work.addPrompt(start: start, count: count, window: window, reachesEnd: true)
                    let positions = start..<start + count
                    #expect(work.promptPairs == positions.reduce(0) { $0 + $1 + 1 })
                    #expect(work.windowedPromptPairs == positions.reduce(0) { $0 + min($1 + 1, window) })
                }
            }
        }
    }
}
