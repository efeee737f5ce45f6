import ApusReport

extension ComparisonReport {
    private static let chartSize = (width: 540.0, height: 330.0)

    /// The ranks over which at least one variant's heads can be divided.
    var possibleRanks: [Int] {
        Self.ranks.filter { ranks in
            variants.contains { $0.cacheBytes(ranks: ranks, bytesPerElement: bytesPerElement) != nil }
        }
    }

    /// Perplexity against the bytes that a token leaves in the cache of one device.
    func cacheChart(ranks: Int) -> String {
        struct Mark {
            var variant: Variant
            var bytes: Double
            var perplexity: Statistics
        }
        let marks = variants.compactMap { variant -> Mark? in
            guard let perplexity = variant.perplexity,
                let bytes = variant.cacheBytes(ranks: ranks, bytesPerElement: bytesPerElement)
            else { return nil }
            return Mark(variant: variant, bytes: bytes, perplexity: perplexity)
        }
        // One vertical axis for all ranks, and one horizontal axis over all of them, so that panels compare by eye.
        let all = variants.flatMap { variant in
            Self.ranks.compactMap { variant.cacheBytes(ranks: $0, bytesPerElement: bytesPerElement) }
        }
        let spread = variants.compactMap(\.perplexity).flatMap { [$0.lowest, $0.highest] }
        var chart = Chart(
            name: "cache\(ranks)", width: Self.chartSize.width, height: 290, xName: "cache bytes per token and device",
            yName: "perplexity", x: { Axis(over: all, scale: .binaryLogarithm, from: $0, to: $1) },
            y: { Axis(over: spread, margin: 0.12, from: $0, to: $1) }, xTick: Self.bytes)
        for mark in marks {
            let (x, color) = (chart.x(mark.bytes), Self.color(mark.variant.index))
            if mark.perplexity.highest > mark.perplexity.lowest {
                let (low, high) = (chart.y(mark.perplexity.lowest), chart.y(mark.perplexity.highest))
                chart.canvas.line(x, low, x, high, "whisker \(color)")
                for end in [low, high] { chart.canvas.line(x - 4, end, x + 4, end, "whisker \(color)") }
            }
            chart.canvas.circle(
                x, chart.y(mark.perplexity.mean), 5.5, "mark \(color)",
                title: "\(mark.variant.name): perplexity \(NumberText.fixed(mark.perplexity.mean, 3)), "
                    + "\(Self.bytes(mark.bytes)) bytes a token")
        }
        let places = marks.map { (x: chart.x($0.bytes), y: chart.y($0.perplexity.mean)) }
        chart.label(
            marks.indices.map { index in
                let (x, y) = places[index]
                // A name stands left of its mark where another mark would lie under it.
                let isTaken = places.contains { $0.x > x + 5 && $0.x < x + 62 && abs($0.y - y) < 11 }
                return Chart.Label(
                    x: isTaken ? x - 10 : x + 10, y: y, text: marks[index].variant.name,
                    style: "label \(Self.color(marks[index].variant.index))", anchor: isTaken ? .end : .start)
            })
        return chart.canvas.svg(label: "Perplexity against cache bytes per token and device, \(ranks) devices")
    }

    /// Losses over the tokens. The first, steep part leaves the frame at its top.
    func lossChart(_ name: String, _ curve: (Run) -> [Point], smoothing: Int = 0) -> String {
        let curves = variants.map { variant -> (variant: Variant, points: [Point]) in
            (variant, Self.smoothed(variant.meanCurve(curve), smoothing))
        }
        let tokens = curves.flatMap { $0.points.map { Double($0.tokens) } }
        let last = tokens.max() ?? 1
        let tail = curves.flatMap { $0.points.filter { Double($0.tokens) >= last * 0.15 }.map(\.loss) }
        var chart = Chart(
            name: name, width: Self.chartSize.width, height: Self.chartSize.height, xName: "tokens",
            yName: "loss, nats", x: { Axis(0...max(last, 1), from: $0, to: $1) },
            y: { Axis(over: tail, from: $0, to: $1) }, xTick: Self.tokens)
        draw(curves, in: &chart)
        return chart.canvas.svg(label: "\(name) loss over the tokens")
    }

    /// Held-out losses less those of the first variant.
    func differenceChart() -> String {
        let reference = Dictionary(
            (variants.first?.meanCurve(\.validation) ?? []).map { ($0.tokens, $0.loss) },
            uniquingKeysWith: { _, b in b })
        let curves = variants.map { variant -> (variant: Variant, points: [Point]) in
            let points = variant.meanCurve(\.validation).compactMap { point in
                reference[point.tokens].map { Point(tokens: point.tokens, loss: point.loss - $0) }
            }
            return (variant, points)
        }
        let last = curves.flatMap { $0.points.map { Double($0.tokens) } }.max() ?? 1
        let tail = curves.flatMap { $0.points.filter { Double($0.tokens) >= last * 0.15 }.map(\.loss) }
        var chart = Chart(
            name: "difference", width: Self.chartSize.width, height: Self.chartSize.height, xName: "tokens",
            yName: "difference, nats", x: { Axis(0...max(last, 1), from: $0, to: $1) },
            y: { Axis(over: tail + [0], from: $0, to: $1) }, xTick: Self.tokens)
        draw(curves, in: &chart)
        return chart.canvas.svg(label: "Validation loss less that of \(variants.first?.name ?? "the first variant")")
    }

    private func draw(_ curves: [(variant: Variant, points: [Point])], in chart: inout Chart) {
        var labels: [Chart.Label] = []
        for (variant, points) in curves {
            let places = points.map { (x: chart.x(Double($0.tokens)), y: chart.y($0.loss)) }
            let color = Self.color(variant.index)
            chart.canvas.polyline(places, "curve \(color)", clip: chart.clip, title: variant.name)
            if let end = places.last {
                labels.append(Chart.Label(x: end.x + 8, y: end.y, text: variant.name, style: "label \(color)"))
            }
        }
        chart.label(labels)
    }

    /// Means over `width` neighbours to each side.
    private static func smoothed(_ points: [Point], _ width: Int) -> [Point] {
        guard width > 0 else { return points }
        return points.indices.map { index in
            let near = points[max(0, index - width)...min(points.count - 1, index + width)]
            return Point(tokens: points[index].tokens, loss: near.reduce(0) { $0 + $1.loss } / Double(near.count))
        }
    }

    static func color(_ index: Int) -> String { "c\(index % 8)" }

    /// 512, 4K, 1.5M.
    static func bytes(_ value: Double) -> String { scaled(value, 1024) }

    /// 500k, 2M.
    static func tokens(_ value: Double) -> String { scaled(value, 1000) }

    private static func scaled(_ value: Double, _ base: Double) -> String {
        let units = base == 1024 ? ["", "K", "M", "G"] : ["", "k", "M", "B"]
        var (rest, unit) = (value, 0)
        while rest >= base * 0.9999, unit < units.count - 1 {
            rest /= base
            unit += 1
        }
        let decimals = (0...2).first { abs(rest - ReportMath.rounded(rest, $0)) < 0.005 } ?? 2
        return NumberText.fixed(rest, decimals) + units[unit]
    }
}
