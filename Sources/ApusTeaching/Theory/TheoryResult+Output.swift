import ApusReport
import ApusText

extension TheoryResult {
    /// The inequalities as lines of a table in Markdown.
    public var table: String {
        var text = "| inequality | instances | broken | nearest ratio to the bound | median ratio | cut off |\n"
        text += "|---|---|---|---|---|---|\n"
        for check in inequalities { text += "| " + Self.cells(check).joined(separator: " | ") + " |\n" }
        return text
    }

    /// One sentence on what theorem 2's instances show, and one on equal accuracy.
    public var reading: String {
        let slower = slowAndFast.count { $0.perfect > $0.misordered }
        var text =
            "The perfectly accurate model of low variance was slower than the one that orders nearly every pair wrongly "
            + "in \(slower) of \(slowAndFast.count) instances."
        if let low = perfectModels.min(by: { $0.variance < $1.variance }),
            let high = perfectModels.max(by: { $0.variance < $1.variance })
        {
            text +=
                " Among \(perfectModels.count) perfectly accurate models for one policy, variance "
                + "\(NumberText.scientific(low.variance)) took \(NumberText.fixed(low.time / high.time, 0)) times as long as "
                + "\(NumberText.scientific(high.variance))."
        }
        return text
    }

    /// All figures, each instance among them.
    public var json: JSONValue {
        var root = JSONObject()
        root["instances"] = .integer(Int64(instances))
        root["seed"] = .integer(Int64(clamping: seed))
        root["holds"] = .bool(holds)
        root["inequalities"] = .array(
            inequalities.map { check in
                var object = JSONObject()
                object["name"] = .string(check.name)
                object["direction"] = .string(check.direction.rawValue)
                object["violations"] = .integer(Int64(check.violations))
                object["samples"] = .array(
                    check.samples.map { .array([.double($0.bound), .double($0.measured), .bool($0.isCensored)]) })
                return .object(object)
            })
        root["perfectModels"] = .array(
            perfectModels.map { .array([.double($0.variance), .double($0.time), .double($0.bound)]) })
        root["slowAndFast"] = .array(slowAndFast.map { .array([.double($0.perfect), .double($0.misordered)]) })
        return .object(root)
    }

    /// The report as one page.
    public var html: String {
        let rows = inequalities.map { check in
            let cells = Self.cells(check)
            let rest = cells.dropFirst().map { "<td>\(HTMLText.escaped($0))</td>" }.joined()
            return "<tr><th scope=\"row\">\(HTMLText.escaped(cells[0]))</th>\(rest)</tr>\n"
        }
        let heads = ["inequality", "instances", "broken", "nearest ratio to the bound", "median ratio", "cut off"]
        return HTMLPage(
            title: "What makes a reward model a good teacher: the theory in numbers",
            body: """
                \(HTMLPage.settings([("instances", "\(instances)"), ("seed", "\(seed)")]))
                <p class="reading">\(HTMLText.escaped(reading))</p>
                <h2>Inequalities</h2>
                <div class="scroll"><table><thead><tr>\(heads.map { "<th scope=\"col\">\($0)</th>" }.joined())</tr></thead>
                <tbody>\(rows.joined())</tbody></table></div>
                <p class="note">Tabular softmax policies, exact gradient flow, random rewards and policies over 2 to 12 \
                outputs (Razin et al. 2025, arXiv 2503.15477). The ratio is measured over bound; a time is cut off where the \
                search ended before the gain, which a lower bound allows. S: training prompts, n: outputs, t: time to a rise of gamma.</p>
                <h2>Figures</h2>
                <div class="grid">
                \(HTMLPage.figure("Perfectly accurate models, one policy: time against variance", varianceChart))\
                \(HTMLPage.figure("Theorem 2: a slow perfect model, a fast misordered one", pairChart))</div>
                <p class="note">Left: every model orders all pairs as the ground truth does; the line is theorem 1's lower \
                bound. Right: each point is one instance; above the diagonal the perfectly accurate model is slower.</p>
                """
        ).html
    }

    private static func cells(_ check: Inequality) -> [String] {
        let ratio = { (value: Double?) in value.map { NumberText.fixed($0, 3) } ?? "–" }
        return [
            check.name, "\(check.samples.count)", "\(check.violations)", ratio(check.tightest), ratio(check.median),
            "\(check.samples.count { $0.isCensored })",
        ]
    }

    private var varianceChart: String {
        let times = perfectModels.flatMap { [$0.time, $0.bound] }
        var chart = Chart(
            name: "variance", width: 540, height: 330, xName: "reward variance under the first policy", yName: "time",
            x: { Axis(over: perfectModels.map(\.variance), scale: .decimalLogarithm, from: $0, to: $1) },
            y: { Axis(over: times, scale: .decimalLogarithm, from: $0, to: $1) }, xTick: NumberText.scientific)
        let ordered = perfectModels.sorted { $0.variance < $1.variance }
        chart.canvas.polyline(
            ordered.map { (chart.x($0.variance), chart.y($0.bound)) }, "curve c2", clip: chart.clip, title: "bound")
        for model in perfectModels {
            chart.canvas.circle(
                chart.x(model.variance), chart.y(model.time), 3, "mark c1",
                title: "variance \(NumberText.scientific(model.variance)), time \(NumberText.scientific(model.time))")
        }
        return chart.canvas.svg(label: "Time to the gain against reward variance, with the lower bound")
    }

    private var pairChart: String {
        let all = slowAndFast.flatMap { [$0.perfect, $0.misordered] }
        var chart = Chart(
            name: "pairs", width: 540, height: 330, xName: "time with the misordered model",
            yName: "time with the perfect model",
            x: { Axis(over: all, scale: .decimalLogarithm, from: $0, to: $1) },
            y: { Axis(over: all, scale: .decimalLogarithm, from: $0, to: $1) }, xTick: NumberText.scientific)
        if let low = all.min(), let high = all.max() {
            chart.canvas.line(chart.x(low), chart.y(low), chart.x(high), chart.y(high), "axis")
        }
        for pair in slowAndFast {
            chart.canvas.circle(chart.x(pair.misordered), chart.y(pair.perfect), 3, "mark c2")
        }
        return chart.canvas.svg(label: "Times of the two models of theorem 2, instance by instance")
    }
}
