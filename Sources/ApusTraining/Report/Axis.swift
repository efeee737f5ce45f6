/// An axis of a chart: values to places on a canvas, and ticks at round values.
struct Axis {
    /// How values are spread.
    enum Scale { case linear, binaryLogarithm }

    let range: ClosedRange<Double>
    let scale: Scale
    /// The places of the range's ends on the canvas.
    let start: Double
    let end: Double

    /// An axis over some values with a margin; a range of its own where all are equal.
    init(over values: [Double], margin: Double = 0.06, scale: Scale = .linear, from start: Double, to end: Double) {
        let finite = values.filter(\.isFinite)
        var low = finite.min() ?? 0
        var high = finite.max() ?? 1
        switch scale {
        case .linear:
            if high <= low {
                let half = max(abs(low) * 0.05, 0.5)
                low -= half
                high += half
            }
            let extra = (high - low) * margin
            range = low - extra...high + extra
        case .binaryLogarithm:
            low = max(low, 1e-9)
            high = max(high, low)
            let (from, to) = (ComparisonMath.binaryLogarithm(low), ComparisonMath.binaryLogarithm(high))
            let extra = max((to - from) * margin, 0.4)
            range = ComparisonMath.power(2, from - extra)...ComparisonMath.power(2, to + extra)
        }
        self.scale = scale
        self.start = start
        self.end = end
    }

    /// An axis over exactly this range.
    init(_ range: ClosedRange<Double>, from start: Double, to end: Double) {
        self.range = range
        scale = .linear
        self.start = start
        self.end = end
    }

    /// The place of a value.
    func callAsFunction(_ value: Double) -> Double {
        let share: Double
        switch scale {
        case .linear: share = (value - range.lowerBound) / (range.upperBound - range.lowerBound)
        case .binaryLogarithm:
            let low = ComparisonMath.binaryLogarithm(range.lowerBound)
            let high = ComparisonMath.binaryLogarithm(range.upperBound)
            share = (ComparisonMath.binaryLogarithm(max(value, 1e-9)) - low) / (high - low)
        }
        return start + share * (end - start)
    }

    /// Round values within the range, about as many as asked for; powers of two on a logarithmic axis.
    func ticks(_ count: Int) -> [Double] {
        switch scale {
        case .linear:
            let step = Self.roundStep((range.upperBound - range.lowerBound) / Double(max(count, 1)))
            let first = (range.lowerBound / step).rounded(.up)
            let last = (range.upperBound / step).rounded(.down)
            guard last >= first, last - first < 100 else { return [] }
            return (0...Int(last - first)).map { (first + Double($0)) * step }
        case .binaryLogarithm:
            let first = Int(ComparisonMath.binaryLogarithm(range.lowerBound).rounded(.up))
            let last = Int(ComparisonMath.binaryLogarithm(range.upperBound).rounded(.down))
            guard last >= first else { return [] }
            let stride = max(1, (last - first + count - 1) / max(count, 1))
            return Swift.stride(from: first, through: last, by: stride).map { ComparisonMath.power(2, Double($0)) }
        }
    }

    /// The decimals that tell the ticks apart.
    static func decimals(_ ticks: [Double]) -> Int {
        guard ticks.count > 1 else { return 2 }
        let step = ticks[1] - ticks[0]
        return step >= 1 ? 0 : min(6, Int((-ComparisonMath.decimalLogarithm(step)).rounded(.up)))
    }

    /// 1, 2 or 5 times a power of ten, not below the step asked for.
    private static func roundStep(_ wanted: Double) -> Double {
        guard wanted > 0, wanted.isFinite else { return 1 }
        let power = ComparisonMath.power(10, ComparisonMath.decimalLogarithm(wanted).rounded(.down))
        return [1, 2, 5, 10].map { $0 * power }.first { $0 >= wanted * 0.999 } ?? 10 * power
    }
}
