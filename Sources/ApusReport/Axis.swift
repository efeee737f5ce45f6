/// An axis of a chart: values to places on a canvas, and ticks at round values.
package struct Axis {
    /// How values are spread.
    package enum Scale {
        case linear, binaryLogarithm, decimalLogarithm

        var base: Double { self == .binaryLogarithm ? 2 : 10 }
    }

    package let range: ClosedRange<Double>
    package let scale: Scale
    /// The places of the range's ends on the canvas.
    package let start: Double
    package let end: Double

    /// An axis over some values with a margin; a range of its own where all are equal.
    package init(
        over values: [Double], margin: Double = 0.06, scale: Scale = .linear, from start: Double, to end: Double
    ) {
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
        case .binaryLogarithm, .decimalLogarithm:
            low = max(low, 1e-9)
            high = max(high, low)
            let (from, to) = (Self.logarithm(low, scale), Self.logarithm(high, scale))
            let extra = max((to - from) * margin, scale == .binaryLogarithm ? 0.4 : 0.1)
            range = ReportMath.power(scale.base, from - extra)...ReportMath.power(scale.base, to + extra)
        }
        self.scale = scale
        self.start = start
        self.end = end
    }

    /// An axis over exactly this range.
    package init(_ range: ClosedRange<Double>, from start: Double, to end: Double) {
        self.range = range
        scale = .linear
        self.start = start
        self.end = end
    }

    /// The place of a value.
    package func callAsFunction(_ value: Double) -> Double {
        let share: Double
        switch scale {
        case .linear: share = (value - range.lowerBound) / (range.upperBound - range.lowerBound)
        case .binaryLogarithm, .decimalLogarithm:
            let low = Self.logarithm(range.lowerBound, scale)
            let high = Self.logarithm(range.upperBound, scale)
            share = (Self.logarithm(max(value, 1e-9), scale) - low) / (high - low)
        }
        return start + share * (end - start)
    }

    /// Round values within the range, about as many as asked for; powers of the base on a logarithmic axis.
    package func ticks(_ count: Int) -> [Double] {
        switch scale {
        case .linear:
            let step = Self.roundStep((range.upperBound - range.lowerBound) / Double(max(count, 1)))
            let first = (range.lowerBound / step).rounded(.up)
            let last = (range.upperBound / step).rounded(.down)
            guard last >= first, last - first < 100 else { return [] }
            return (0...Int(last - first)).map { (first + Double($0)) * step }
        case .binaryLogarithm, .decimalLogarithm:
            let first = Int(Self.logarithm(range.lowerBound, scale).rounded(.up))
            let last = Int(Self.logarithm(range.upperBound, scale).rounded(.down))
            guard last >= first else { return [] }
            let stride = max(1, (last - first + count - 1) / max(count, 1))
            return Swift.stride(from: first, through: last, by: stride).map { ReportMath.power(scale.base, Double($0)) }
        }
    }

    private static func logarithm(_ value: Double, _ scale: Scale) -> Double {
        scale == .binaryLogarithm ? ReportMath.binaryLogarithm(value) : ReportMath.decimalLogarithm(value)
    }

    /// The decimals that tell the ticks apart.
    package static func decimals(_ ticks: [Double]) -> Int {
        guard ticks.count > 1 else { return 2 }
        let step = ticks[1] - ticks[0]
        return step >= 1 ? 0 : min(6, Int((-ReportMath.decimalLogarithm(step)).rounded(.up)))
    }

    /// 1, 2 or 5 times a power of ten, not below the step asked for.
    private static func roundStep(_ wanted: Double) -> Double {
        guard wanted > 0, wanted.isFinite else { return 1 }
        let power = ReportMath.power(10, ReportMath.decimalLogarithm(wanted).rounded(.down))
        return [1, 2, 5, 10].map { $0 * power }.first { $0 >= wanted * 0.999 } ?? 10 * power
    }
}
