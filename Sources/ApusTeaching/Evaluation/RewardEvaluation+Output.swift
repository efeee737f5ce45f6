import ApusReport
import ApusText

extension RewardEvaluation {
    private static let columns = [
        "reward model", "variance", "within-prompt share", "mean Var^(1/2)", "mean Var^(1/3)", "near zero",
        "on-policy accuracy", "off-policy accuracy", "average",
    ]

    private func cells(_ index: Int) -> [String] {
        let quality = qualities[index]
        return [
            quality.name, Self.text(quality.variance), Self.text(quality.withinShare),
            Self.text(quality.meanSquareRoot),
            Self.text(quality.meanCubeRoot), Self.text(quality.nearZeroShare), Self.text(quality.onPolicyAccuracy),
            Self.text(quality.offPolicyAccuracy), Self.text(quality.average),
        ]
    }

    private static func text(_ estimate: Estimate?) -> String {
        guard let estimate else { return "–" }
        return NumberText.fixed(estimate.value, 3) + " (" + NumberText.fixed(estimate.low, 3) + " to "
            + NumberText.fixed(estimate.high, 3) + ")"
    }

    /// The figures as a table in Markdown, best teacher first.
    public var table: String {
        var text = "| " + Self.columns.joined(separator: " | ") + " |\n"
        text += "|" + String(repeating: "---|", count: Self.columns.count) + "\n"
        for index in ranking { text += "| " + cells(index).joined(separator: " | ") + " |\n" }
        return text
    }

    /// All figures, and every output with its rewards.
    public var json: JSONValue {
        var root = JSONObject()
        root["policy"] = .string(policy)
        root["prompts"] = .integer(Int64(prompts.count))
        root["rankedBy"] = .string(rankedBy)
        root["ranking"] = .array(ranking.map { .string(names[$0]) })
        root["reading"] = .string(reading)
        root["models"] = .array(qualities.map(Self.json))
        root["precedence"] = .array(precedence.map { .array($0.map { .double($0) }) })
        root["correlations"] = .array(correlations.map { .array($0.map { $0.map { .double($0) } ?? .null }) })
        root["samples"] = .array(
            prompts.indices.map { prompt in
                var row = JSONObject()
                row["prompt"] = .string(prompts[prompt].title)
                row["outputs"] = .array(outputs[prompt].map { .string($0) })
                if let groundTruth { row["groundTruth"] = .array(groundTruth.rewards[prompt].map { .double($0) }) }
                var rewards = JSONObject()
                for (name, sample) in zip(names, samples) {
                    rewards[name] = .array(sample.rewards[prompt].map { .double($0) })
                }
                row["rewards"] = .object(rewards)
                return .object(row)
            })
        return .object(root)
    }

    private static func json(_ quality: Quality) -> JSONValue {
        var object = JSONObject()
        object["name"] = .string(quality.name)
        for (key, estimate) in [
            ("variance", quality.variance), ("withinPromptShare", quality.withinShare),
            ("meanSquareRoot", quality.meanSquareRoot), ("meanCubeRoot", quality.meanCubeRoot),
            ("nearZeroShare", quality.nearZeroShare), ("onPolicyAccuracy", quality.onPolicyAccuracy),
            ("offPolicyAccuracy", quality.offPolicyAccuracy), ("average", quality.average),
        ] as [(String, Estimate?)] {
            object[key] = json(estimate)
        }
        object["bestOfN"] = .array(
            quality.bestOfN.map { .object(["n": .integer(Int64($0.n)), "groundTruth": json($0.value)]) })
        object["calibration"] = .array(
            quality.calibration.map {
                .object([
                    "predicted": .double($0.predicted), "observed": .double($0.observed),
                    "pairs": .integer(Int64($0.pairs)),
                ])
            })
        object["calibrationError"] = .double(RewardAgreement.calibrationError(quality.calibration))
        object["normalisation"] = .object([
            "mean": .double(quality.normalisation.mean), "deviation": .double(quality.normalisation.deviation),
        ])
        object["variances"] = .array(quality.variances.map { .double($0) })
        return .object(object)
    }

    private static func json(_ estimate: Estimate?) -> JSONValue {
        guard let estimate else { return .null }
        return .object(["value": .double(estimate.value), "low": .double(estimate.low), "high": .double(estimate.high)])
    }

    /// The report as one page: table, figures, and every prompt with its outputs and their rewards.
    public var html: String {
        let rows = ranking.map { index in
            let cells = cells(index)
            let key = "<span class=\"key c\(index % 8)\"></span>"
            let rest = cells.dropFirst().map { "<td>\(HTMLText.escaped($0))</td>" }.joined()
            return "<tr><th scope=\"row\">\(key)\(HTMLText.escaped(cells[0]))</th>\(rest)</tr>\n"
        }
        var figures = HTMLPage.figure("Variance of each prompt, sorted", varianceChart)
        if groundTruth != nil {
            figures += HTMLPage.figure("Ground truth of the best of n", bestOfNChart)
            figures += HTMLPage.figure("Calibration", calibrationChart)
        }
        return HTMLPage(
            title: "Reward models as teachers of \(policy)",
            body: """
                \(HTMLPage.settings([("prompts", "\(prompts.count)"), ("outputs", "\(outputs.reduce(0) { $0 + $1.count })"),
                    ("reward models", "\(names.count)")]))
                <p class="reading">\(HTMLText.escaped(reading))</p>
                <h2>Figures</h2>
                <div class="scroll"><table><thead><tr>\
                \(Self.columns.map { "<th scope=\"col\">\(HTMLText.escaped($0))</th>" }.joined())</tr></thead>
                <tbody>\(rows.joined())</tbody></table></div>
                <p class="note">Rewards are normalised by their mean and standard deviation over all outputs. Variance: mean \
                over prompts of the unbiased variance within a prompt. In brackets: 95 % intervals over resampled prompts.</p>
                <div class="grid">\(figures)</div>
                <h2>Prompts</h2>
                \(promptTables)
                """
        ).html
    }

    private var varianceChart: String {
        let sorted = qualities.map { $0.variances.sorted() }
        var chart = Chart(
            name: "variances", width: 540, height: 330, xName: "share of prompts", yName: "variance",
            x: { Axis(0...1, from: $0, to: $1) }, y: { Axis(over: sorted.flatMap { $0 } + [0], from: $0, to: $1) },
            xTick: { NumberText.fixed($0, 1) })
        for (index, values) in sorted.enumerated() {
            let steps = Double(max(values.count - 1, 1))
            let points = values.enumerated().map { (x: chart.x(Double($0) / steps), y: chart.y($1)) }
            chart.canvas.polyline(points, "curve c\(index % 8)", clip: chart.clip, title: names[index])
        }
        return chart.canvas.svg(label: "Sorted variances of all prompts, a curve a model")
    }

    private var bestOfNChart: String {
        let curves = qualities.map(\.bestOfN)
        var chart = Chart(
            name: "best", width: 540, height: 330, xName: "n", yName: "ground truth",
            x: { Axis(over: curves.flatMap { $0.map { Double($0.n) } }, scale: .binaryLogarithm, from: $0, to: $1) },
            y: { Axis(over: curves.flatMap { $0.map(\.value.value) }, from: $0, to: $1) },
            xTick: { NumberText.fixed($0, 0) })
        for (index, curve) in curves.enumerated() {
            let points = curve.map { (x: chart.x(Double($0.n)), y: chart.y($0.value.value)) }
            chart.canvas.polyline(points, "curve c\(index % 8)", clip: chart.clip, title: names[index])
        }
        return chart.canvas.svg(label: "Expected ground truth of the best of n outputs, a curve a model")
    }

    private var calibrationChart: String {
        var chart = Chart(
            name: "calibration", width: 540, height: 330, xName: "predicted probability", yName: "share in order",
            x: { Axis(0.5...1, from: $0, to: $1) }, y: { Axis(0...1, from: $0, to: $1) },
            xTick: { NumberText.fixed($0, 2) })
        chart.canvas.line(chart.x(0.5), chart.y(0.5), chart.x(1), chart.y(1), "axis")
        for (index, quality) in qualities.enumerated() {
            let points = quality.calibration.map { (x: chart.x($0.predicted), y: chart.y($0.observed)) }
            chart.canvas.polyline(points, "curve c\(index % 8)", clip: chart.clip, title: names[index])
            for point in points { chart.canvas.circle(point.x, point.y, 3, "mark c\(index % 8)") }
        }
        return chart.canvas.svg(label: "Predicted probability against the share of pairs in the ground truth's order")
    }

    /// A closed section a prompt: its outputs with their rewards.
    private var promptTables: String {
        let heads = ["output"] + (groundTruth == nil ? [] : ["ground truth"]) + names
        return prompts.indices.map { prompt in
            let rows = outputs[prompt].indices.map { output in
                var values = groundTruth.map { [$0.rewards[prompt][output]] } ?? []
                values += samples.map { $0.rewards[prompt][output] }
                let cells = values.map { "<td>\(NumberText.fixed($0, 3))</td>" }.joined()
                return
                    "<tr><th scope=\"row\" class=\"output\">\(HTMLText.escaped(outputs[prompt][output]))</th>\(cells)</tr>"
            }
            return """
                <details><summary>\(HTMLText.escaped(prompts[prompt].title))</summary>
                <div class="scroll"><table><thead><tr>\
                \(heads.map { "<th scope=\"col\">\(HTMLText.escaped($0))</th>" }.joined())</tr></thead>
                <tbody>\(rows.joined(separator: "\n"))</tbody></table></div></details>

                """
        }.joined()
    }
}
