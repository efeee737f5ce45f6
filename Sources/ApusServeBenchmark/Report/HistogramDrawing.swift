/// Draws a distribution as an SVG histogram with lines at its median and 99th percentile.
struct HistogramDrawing {
    let values: Distribution
    let title: String

    private static let width = 460.0
    private static let height = 170.0
    private static let left = 44.0
    private static let bottom = 24.0
    private static let top = 14.0
    private static let bins = 46

    /// The SVG element; a note in place of bars where there are no numbers.
    var svg: String {
        var parts = [
            "<svg viewBox=\"0 0 \(Int(Self.width)) \(Int(Self.height))\" role=\"img\" aria-label=\"\(title)\">"
        ]
        if let low = values.values.first, let high = values.values.last {
            draw(low, high, &parts)
        } else {
            parts.append("<text x=\"20\" y=\"40\">no numbers</text>")
        }
        parts.append("</svg>")
        return parts.joined()
    }

    private func draw(_ low: Double, _ high: Double, _ parts: inout [String]) {
        // The last hundredth may lie far out; what is beyond the axis is counted in its last bar.
        let end = Swift.max(Swift.min(high, values.percentile(0.99) * 1.15), low + 1e-6)
        let start = low - (end - low) * 0.02
        let step = (end - start) / Double(Self.bins)
        var counts = [Int](repeating: 0, count: Self.bins)
        for value in values.values { counts[Swift.min(Int((value - start) / step), Self.bins - 1)] += 1 }
        let most = Double(counts.max() ?? 1)
        let innerWidth = Self.width - Self.left - 8
        let innerHeight = Self.height - Self.top - Self.bottom
        let base = Self.height - Self.bottom
        func x(_ value: Double) -> Double { Self.left + (value - start) / (end - start) * innerWidth }
        for (index, count) in counts.enumerated() where count > 0 {
            let height = Double(count) / most * innerHeight
            let label =
                "\(number(start + Double(index) * step)) to \(number(start + Double(index + 1) * step)) ms: \(count)"
            parts.append(
                "<rect class=\"bar\" x=\"\(fixed(x(start + Double(index) * step)))\" y=\"\(fixed(base - height))\" "
                    + "width=\"\(fixed(innerWidth / Double(Self.bins) - 1))\" height=\"\(fixed(height))\">"
                    + "<title>\(label)</title></rect>")
        }
        parts.append(
            "<line class=\"axis\" x1=\"\(Self.left)\" y1=\"\(base)\" x2=\"\(Self.width - 8)\" y2=\"\(base)\"/>")
        for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
            let value = start + (end - start) * share
            parts.append(
                "<text class=\"tick\" text-anchor=\"middle\" x=\"\(fixed(x(value)))\" y=\"\(fixed(base + 14))\">"
                    + "\(number(value))</text>")
        }
        parts.append(
            "<text class=\"tick\" text-anchor=\"end\" x=\"\(Self.left - 5)\" y=\"\(Self.top + 8)\">\(Int(most))</text>")
        for (share, name) in [(0.5, "median"), (0.99, "p99")] {
            let place = x(Swift.min(values.percentile(share), end))
            parts.append(
                "<line class=\"\(name)\" x1=\"\(fixed(place))\" y1=\"\(Self.top)\" x2=\"\(fixed(place))\" y2=\"\(base)\"/>"
                    + "<text class=\"tick\" text-anchor=\"\(share < 0.9 ? "start" : "end")\" "
                    + "x=\"\(fixed(place + (share < 0.9 ? 3 : -3)))\" y=\"\(Self.top - 3)\">\(name) "
                    + "\(number(values.percentile(share)))</text>")
        }
    }

    private func number(_ value: Double) -> String {
        ServeBenchmarkResult.fixed(value, value.magnitude < 10 ? 2 : value.magnitude < 100 ? 1 : 0)
    }

    private func fixed(_ value: Double) -> String { ServeBenchmarkResult.fixed(value, 1) }
}
