#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// The learning rate over a run: linear warm-up, then one of the forms of ``ScheduleKind``.
public struct LearningRateSchedule: Sendable, Equatable {
    /// The rate after warm-up.
    public var peak: Double
    /// The form after warm-up.
    public var kind: ScheduleKind
    /// Steps of warm-up.
    public var warmupSteps: Int
    /// Steps of the run.
    public var totalSteps: Int
    /// Share of the peak at the end.
    public var minRatio: Double
    /// Share of all steps in which `wsd` decays.
    public var decayFraction: Double

    /// A schedule.
    public init(
        peak: Double, kind: ScheduleKind, warmupSteps: Int, totalSteps: Int, minRatio: Double, decayFraction: Double
    ) {
        self.peak = peak
        self.kind = kind
        self.warmupSteps = warmupSteps
        self.totalSteps = totalSteps
        self.minRatio = minRatio
        self.decayFraction = decayFraction
    }

    /// The rate of a step, counted from 0. The last step has the lowest.
    public func rate(step: Int) -> Double {
        if step < warmupSteps { return peak * Double(step + 1) / Double(warmupSteps) }
        let left = totalSteps - 1 - step
        switch kind {
        case .constant: return peak
        case .cosine:
            let length = max(totalSteps - 1 - warmupSteps, 1)
            let progress = 1 - Double(max(left, 0)) / Double(length)
            return peak * (minRatio + (1 - minRatio) * 0.5 * (1 + cos(Double.pi * min(max(progress, 0), 1))))
        case .wsd:
            let decay = max((Double(totalSteps) * decayFraction).rounded(), 1)
            return peak * (minRatio + (1 - minRatio) * min(Double(max(left, 0)) / decay, 1))
        }
    }
}
