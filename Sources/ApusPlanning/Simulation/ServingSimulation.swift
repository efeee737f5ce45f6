import ApusEngine

/// A server's future, event by event: ``ApusEngine``'s own scheduler decides every step, a cost model says how long it takes.
///
/// Groups of devices that share feed-forwards take their steps together. A request goes to the group with the fewest
/// requests. It arrives ``roundTrip`` after it was sent, and ``spacing`` after the one before it; with a concurrency, the next
/// one is sent when one has ended.
/// Nothing is found in the prefix cache, and nothing is drafted.
///
/// Between arrivals and endings, steps in which every sequence decodes are taken without asking the scheduler
/// (`Scheduler.plainSteps(limit:)`); the result is the same to the last bit.
public struct ServingSimulation: Sendable {
    /// The requests.
    public var workload: ServingWorkload
    /// How long steps take.
    public var cost: any StepCost
    /// Groups that take their steps together.
    public var groups: Int
    /// Sizes of each group's scheduler.
    let limits: Scheduler.Limits
    /// Seconds that a request is on its way, and an answer's last token until the next request of its place is sent.
    public var roundTrip: Double
    /// Seconds between arrivals of requests that were sent together: clients and servers take them one after another, so that
    /// an engine at rest begins with the first alone.
    public var spacing: Double
    /// Whether to ask the scheduler for every single step.
    public var isStepByStep = false

    /// A simulation.
    package init(
        _ workload: ServingWorkload, cost: any StepCost, groups: Int = 1, limits: Scheduler.Limits,
        roundTrip: Double = 0, spacing: Double = 0
    ) {
        self.workload = workload
        self.cost = cost
        self.groups = groups
        self.limits = limits
        self.roundTrip = roundTrip
        self.spacing = spacing
    }

    /// Runs until the last request has ended.
    /// - Throws: ``PlanningError/requestDoesNotFit(tokens:capacity:)`` where a request could never run.
    public func run() throws(PlanningError) -> SimulationResult {
        let capacity = limits.pages * limits.pageSize
        let needed = workload.lengths.map { $0.prompt + $0.output }.max() ?? 0
        guard needed <= capacity else { throw .requestDoesNotFit(tokens: needed, capacity: capacity) }
        for (prompt, output) in workload.lengths where prompt < 1 || output < 1 {
            throw .outOfRange(name: "lengths", expected: "at least one token", found: "\(min(prompt, output))")
        }
        var run = SimulationRun(self)
        run.toEnd()
        return run.result()
    }
}
