/// A step's time by what it is bound by.
public struct StepTime: Sendable, Hashable {
    /// What a part of a step waits for.
    public enum Bound: String, Sendable, CaseIterable {
        /// Bytes from memory.
        case memory
        /// Operations.
        case compute
        /// Bytes between devices, and the latency of collectives.
        case communication
        /// Launches and planning.
        case overhead
    }

    /// Seconds of the parts that memory bounds.
    public var memory = 0.0
    /// Seconds of the parts that operations bound.
    public var compute = 0.0
    /// Seconds of collectives.
    public var communication = 0.0
    /// Seconds that neither explains.
    public var overhead = 0.0

    /// No time.
    public init() {}

    /// All of it.
    public var seconds: Double { memory + compute + communication + overhead }

    /// What takes the most of it.
    public var bound: Bound {
        let parts: [(Bound, Double)] = [
            (.memory, memory), (.compute, compute), (.communication, communication), (.overhead, overhead),
        ]
        return parts.max { $0.1 < $1.1 }!.0
    }

    /// Adds a part that reads bytes and computes at the same time: the longer of the two counts.
    mutating func add(memory bytes: Double, compute operations: Double, times count: Double) {
        if bytes >= operations { memory += bytes * count } else { compute += operations * count }
    }
}
