import ApusReport

extension ServingReport {
    /// A page with the plan's figures and drawings, which needs nothing but itself.
    public var html: String {
        var body = HTMLPage.settings(facts)
        body += "<h2>What bounds a step</h2>" + Self.htmlTable(stepRows)
        if !runs.isEmpty {
            body += "<h2>\(HTMLText.escaped(workload))</h2>" + Self.htmlTable([Self.runHeader] + runs.map(Self.row))
            body += "<h2>Distributions</h2><div class=\"grid\">\n"
            if runs.count > 1 { body += HTMLPage.figure("Output tokens/s over requests at once", throughputChart) }
            body += runs[0].result.distributions.map { distribution in
                HTMLPage.figure(
                    "\(distribution.title): share of all below", cumulativeChart(distribution.key, distribution.unit))
            }.joined()
            body += runs.enumerated().map { index, run in
                HTMLPage.figure("Sequences over time, \(run.name)", timelineChart(index, run))
            }.joined()
            body += "</div>"
        }
        return HTMLPage(title: "\(model) on \(plan.layout.devices) x \(plan.roofline.device.name)", body: body).html
    }

    private var stepRows: [[String]] {
        [["step", "ms", "memory", "compute", "links", "launches", "bound by"]]
            + steps.map { step in
                [step.name]
                    + [
                        step.time.seconds, step.time.memory, step.time.compute, step.time.communication,
                        step.time.overhead,
                    ].map { Self.milliseconds($0) } + [step.time.bound.rawValue]
            }
    }

    private static func htmlTable(_ rows: [[String]]) -> String {
        func line(_ cells: [String], _ tag: String) -> String {
            "<tr>"
                + cells.enumerated().map { column, cell in
                    let name = column == 0 ? "th" : tag
                    return "<\(name)>\(HTMLText.escaped(cell))</\(name)>"
                }.joined() + "</tr>\n"
        }
        return "<div class=\"scroll\"><table><thead>\(line(rows[0], "th"))</thead><tbody>"
            + rows.dropFirst().map { line($0, "td") }.joined() + "</tbody></table></div>\n"
    }

    /// Output tokens a second of each run.
    private var throughputChart: String {
        let points = runs.compactMap { run in
            run.concurrency.map { (x: Double($0), y: run.result.outputThroughput) }
        }
        var chart = Chart(
            name: "throughput", width: 520, height: 300, xName: "requests at once", yName: "tokens/s",
            x: { Axis(over: points.map(\.x), scale: .binaryLogarithm, from: $0, to: $1) },
            y: { Axis(over: [0] + points.map(\.y), from: $0, to: $1) }, xTick: { NumberText.fixed($0, 0) })
        chart.canvas.polyline(points.map { (chart.x($0.x), chart.y($0.y)) }, "curve c1", clip: chart.clip)
        for point in points {
            chart.canvas.circle(
                chart.x(point.x), chart.y(point.y), 4, "mark c1",
                title: "\(Int(point.x)): \(NumberText.fixed(point.y, 0)) tokens/s")
        }
        return chart.canvas.svg(label: "output tokens a second over requests at once")
    }

    /// Of each run the share of numbers below a number, in milliseconds.
    private func cumulativeChart(_ key: String, _ unit: String) -> String {
        let curves = runs.map { run -> [(x: Double, y: Double)] in
            let values = run.result.distributions.first { $0.key == key }!.values
            return stride(from: 0.0, through: 1.0, by: 0.01).map { (values.percentile($0) * 1000, $0) }
        }
        var chart = Chart(
            name: key, width: 520, height: 300, xName: "\(unit), ms", yName: "share",
            x: { Axis(over: curves.flatMap { $0.map(\.x) }, scale: .decimalLogarithm, from: $0, to: $1) },
            y: { Axis(0...1, from: $0, to: $1) }, xTick: { NumberText.fixed($0, $0 < 1 ? 2 : 0) })
        var labels: [Chart.Label] = []
        for (index, curve) in curves.enumerated() {
            let style = "c\(1 + index % 7)"
            chart.canvas.polyline(
                curve.map { (chart.x($0.x), chart.y($0.y)) }, "curve \(style)", clip: chart.clip,
                title: runs[index].name)
            // Beside the median: at the ends curves lie on each other.
            labels.append(
                .init(
                    x: chart.x(curve[50].x) + 6, y: chart.y(0.5), text: runs[index].name, style: "label \(style)"))
        }
        chart.label(labels)
        return chart.canvas.svg(label: "cumulative distribution of \(unit)")
    }

    /// How many sequences ran and waited.
    private func timelineChart(_ index: Int, _ run: Run) -> String {
        // A thousand moments are more than a drawing shows.
        let all = run.result.timeline
        let moments = stride(from: 0, to: all.count, by: max(all.count / 1000, 1)).map { all[$0] }
        var chart = Chart(
            name: "timeline\(index)", width: 520, height: 300, xName: "s", yName: "sequences",
            x: { Axis(over: [0] + moments.map(\.time), margin: 0, from: $0, to: $1) },
            y: { Axis(over: [0] + moments.map { Double(max($0.running, $0.waiting)) }, from: $0, to: $1) },
            xTick: { NumberText.fixed($0, 0) })
        for (style, name, value) in [
            ("c1", "running", \SimulationResult.Moment.running), ("c2", "waiting", \.waiting),
        ] {
            chart.canvas.polyline(
                moments.map { (chart.x($0.time), chart.y(Double($0[keyPath: value]))) }, "curve \(style)",
                clip: chart.clip, title: name)
        }
        if let last = moments.dropLast(max(moments.count / 20, 1)).last {
            chart.label([
                .init(x: chart.x.end + 6, y: chart.y(Double(last.running)), text: "running", style: "label c1"),
                .init(x: chart.x.end + 6, y: chart.y(Double(last.waiting)), text: "waiting", style: "label c2"),
            ])
        }
        return chart.canvas.svg(label: "sequences that run and wait over time")
    }
}
