import ApusEngine

/// One run of a ``ServingSimulation``: the clock, the groups' schedulers, and what came of each request so far.
struct SimulationRun {
    private let simulation: ServingSimulation
    private let cost: any StepCost
    private var schedulers: [Scheduler]
    private var now = 0.0
    /// The next request that is to be sent.
    private var next = 0
    /// Requests on their way, in order.
    private var travelling: [(arrival: Double, request: Int)] = []
    private var firstTravelling = 0
    private var active = 0
    private var ended = 0
    // Of each request.
    private var sent: [Double]
    private var first: [Double]
    private var last: [Double]
    private var drawn: [Int]
    private var group: [Int]
    private var lastPrompt: [Int32] = []
    // Of each group.
    private var load: [Int]
    // What is told in the end.
    private var gaps: [(value: Double, count: Int)] = []
    private var timeline: [SimulationResult.Moment] = []
    private var steps = 0
    private var peakRunning = 0
    private var work: [StepWork]

    init(_ simulation: ServingSimulation) {
        self.simulation = simulation
        cost = simulation.cost
        schedulers = (0..<simulation.groups).map { _ in Scheduler(simulation.limits) }
        let count = simulation.workload.lengths.count
        sent = Array(repeating: 0, count: count)
        first = Array(repeating: -1, count: count)
        last = sent
        drawn = Array(repeating: 0, count: count)
        group = drawn
        load = Array(repeating: 0, count: simulation.groups)
        work = Array(repeating: StepWork(), count: simulation.groups)
    }

    mutating func toEnd() {
        send()
        while ended < sent.count {
            takeArrivals()
            if schedulers.allSatisfy(\.isIdle) {
                now = max(now, nextArrival)
                continue
            }
            let plain = simulation.isStepByStep ? 0 : plainSteps()
            if plain > 0 { takePlainSteps(plain) } else { step() }
        }
        note()
    }

    // MARK: Requests

    private var nextArrival: Double {
        if firstTravelling < travelling.count { return travelling[firstTravelling].arrival }
        return next < sent.count && active < limit ? simulation.workload.due[next] + simulation.roundTrip : .infinity
    }

    private var limit: Int { simulation.workload.concurrency ?? .max }

    /// Sends what has become due while a place was free.
    private mutating func send() {
        while next < sent.count, active < limit, simulation.workload.due[next] <= now {
            send(at: simulation.workload.due[next])
        }
    }

    private mutating func send(at time: Double) {
        sent[next] = time
        var arrival = time + simulation.roundTrip
        if let last = travelling.last { arrival = max(arrival, last.arrival + simulation.spacing) }
        travelling.append((arrival, next))
        active += 1
        next += 1
    }

    private mutating func takeArrivals() {
        send()
        while firstTravelling < travelling.count, travelling[firstTravelling].arrival <= now {
            let request = travelling[firstTravelling].request
            firstTravelling += 1
            let place = load.indices.min { load[$0] < load[$1] }!
            group[request] = place
            load[place] += 1
            schedulers[place].add(
                ScheduledSequence(
                    order: .init(level: 0, arrival: request), tag: request,
                    tokens: prompt(simulation.workload.lengths[request].prompt), prefixUse: .none))
        }
    }

    /// A prompt of a length. Requests of one length that wait share their memory.
    private mutating func prompt(_ length: Int) -> [Int32] {
        if lastPrompt.count != length { lastPrompt = Array(repeating: 0, count: length) }
        return lastPrompt
    }

    // MARK: Steps

    /// Plain steps of all groups before anybody ends; arrivals are looked for while they are taken.
    private func plainSteps() -> Int {
        var count = Int.max
        for scheduler in schedulers where !scheduler.isIdle {
            for sequence in scheduler.running {
                count = min(count, simulation.workload.lengths[sequence.tag].output - drawn[sequence.tag] - 1)
            }
            count = scheduler.plainSteps(limit: count)
            guard count > 0 else { return 0 }
        }
        return count
    }

    private mutating func takePlainSteps(_ count: Int) {
        var (rows, windowed) = (0, false)
        for (index, scheduler) in schedulers.enumerated() {
            work[index] = StepWork()
            for sequence in scheduler.running {
                work[index].addDecode(context: sequence.computed + 1, window: cost.window)
                windowed = windowed || sequence.computed + count >= cost.window
            }
            rows += work[index].decodeRows
        }
        let arrival = nextArrival
        var taken = 0
        repeat {
            let before = now
            now += cost.seconds(work)
            taken += 1
            if taken == 1 {
                for scheduler in schedulers {
                    for sequence in scheduler.running { noteToken(of: sequence.tag) }
                }
            } else {
                gaps.append((now - before, rows))
            }
            for index in work.indices {
                work[index].decodeContext += work[index].decodeRows
                if !windowed { work[index].windowedDecodeContext += work[index].decodeRows }
            }
            if windowed { recountWindows(after: taken) }
        } while taken < count && now < arrival
        steps += taken
        for index in schedulers.indices {
            for sequence in schedulers[index].running {
                drawn[sequence.tag] += taken
                last[sequence.tag] = now
            }
            schedulers[index].takePlainSteps(taken, drawing: 0)
        }
    }

    private mutating func recountWindows(after taken: Int) {
        for (index, scheduler) in schedulers.enumerated() {
            work[index].windowedDecodeContext = scheduler.running.reduce(0) {
                $0 + min($1.computed + 1 + taken, cost.window)
            }
        }
    }

    private mutating func step() {
        var plans: [StepPlan] = []
        for index in schedulers.indices {
            let plan = schedulers[index].isIdle ? StepPlan() : schedulers[index].schedule()
            work[index] = StepWork()
            for entry in plan.entries {
                if entry.count == 1, entry.reachesEnd {
                    work[index].addDecode(context: entry.start + 1, window: cost.window)
                } else {
                    work[index].addPrompt(
                        start: entry.start, count: entry.count, window: cost.window, reachesEnd: entry.reachesEnd)
                }
            }
            plans.append(plan)
        }
        now += cost.seconds(work)
        send()
        steps += 1
        peakRunning = max(peakRunning, schedulers.reduce(0) { $0 + $1.running.count })
        var changed = false
        for (index, plan) in plans.enumerated() {
            changed = changed || !plan.admitted.isEmpty || !plan.preempted.isEmpty
            for entry in plan.entries {
                schedulers[index].advance(entry.sequence, to: entry.start + entry.count)
                guard entry.reachesEnd else { continue }
                changed = draw(entry.sequence, index) || changed
            }
        }
        if changed { note() }
    }

    /// Takes down when a request's next token came; a prompt's last token alone is a step like any that decodes.
    private mutating func noteToken(of request: Int) {
        if drawn[request] == 0 { first[request] = now } else { gaps.append((now - last[request], 1)) }
    }

    /// Draws a token; whether it was the last.
    private mutating func draw(_ sequence: ScheduledSequence, _ index: Int) -> Bool {
        let request = sequence.tag
        schedulers[index].append([0], to: sequence)
        schedulers[index].advance(sequence, to: sequence.tokens.count - 1)
        noteToken(of: request)
        drawn[request] += 1
        last[request] = now
        guard drawn[request] == simulation.workload.lengths[request].output else { return false }
        schedulers[index].finish(sequence)
        load[index] -= 1
        active -= 1
        ended += 1
        // What was due before has been sent, if it had a place.
        if next < sent.count, simulation.workload.due[next] <= now { send(at: now) }
        return true
    }

    // MARK: Result

    private mutating func note() {
        timeline.append(
            .init(
                time: now, running: schedulers.reduce(0) { $0 + $1.running.count },
                waiting: schedulers.reduce(0) { $0 + $1.waiting.count }))
    }

    func result() -> SimulationResult {
        let lengths = simulation.workload.lengths
        return SimulationResult(
            requests: lengths.count, duration: (last.max() ?? 0) - (sent.min() ?? 0),
            inputTokens: lengths.reduce(0) { $0 + $1.prompt }, outputTokens: lengths.reduce(0) { $0 + $1.output },
            ttft: WeightedDistribution(zip(first, sent).map { $0 - $1 }),
            tpot: WeightedDistribution(
                lengths.indices.compactMap {
                    lengths[$0].output > 1 ? (last[$0] - first[$0]) / Double(lengths[$0].output - 1) : nil
                }),
            itl: WeightedDistribution(gaps), e2el: WeightedDistribution(zip(last, sent).map { $0 - $1 }),
            steps: steps, peakRunning: peakRunning,
            preemptions: schedulers.reduce(0) { $0 + $1.counts.preemptions }, timeline: timeline)
    }
}
