import ApusReport

extension ReproductionResult {
    private static let size = (width: 540.0, height: 330.0)

    /// Means over seeds of a figure at each evaluation.
    private func meanCurve(_ run: Runs, _ key: KeyPath<Curve, [Double]>) -> [Double] {
        let shortest = run.curves.map { $0.steps.count }.min() ?? 0
        return (0..<shortest).map { place in Self.mean(run.curves.map { $0[keyPath: key][place] }) }
    }

    /// A figure over the steps, a curve a teacher.
    func curveChart(_ runs: [Runs], _ key: KeyPath<Curve, [Double]>, _ name: String) -> String {
        let curves = runs.map { meanCurve($0, key) }
        let steps = runs.first?.curves.first?.steps ?? [0]
        var chart = Chart(
            name: name, width: Self.size.width, height: Self.size.height, xName: "steps", yName: "increase",
            x: { Axis(0...Double(max(steps.last ?? 1, 1)), from: $0, to: $1) },
            y: { Axis(over: curves.flatMap { $0 } + [0], from: $0, to: $1) }, xTick: { NumberText.fixed($0, 0) })
        for (run, curve) in zip(runs, curves) {
            let points = zip(steps, curve).map { (x: chart.x(Double($0)), y: chart.y($1)) }
            chart.canvas.polyline(points, "curve c\(run.teacher % 8)", clip: chart.clip, title: teachers[run.teacher])
        }
        return chart.canvas.svg(label: "Increase over the steps, a curve a teacher")
    }

    /// The ground truth over the KL divergence that it costs.
    func klChart(_ runs: [Runs], _ name: String) -> String {
        let curves = runs.map { Array(zip(meanCurve($0, \.kl), meanCurve($0, \.groundTruth))) }
        var chart = Chart(
            name: name, width: Self.size.width, height: Self.size.height, xName: "KL from the initial policy",
            yName: "increase", x: { Axis(over: curves.flatMap { $0.map(\.0) } + [0], from: $0, to: $1) },
            y: { Axis(over: curves.flatMap { $0.map(\.1) } + [0], from: $0, to: $1) },
            xTick: { NumberText.fixed($0, 2) })
        for (run, curve) in zip(runs, curves) {
            let points = curve.map { (x: chart.x($0.0), y: chart.y($0.1)) }
            chart.canvas.polyline(points, "curve c\(run.teacher % 8)", clip: chart.clip, title: teachers[run.teacher])
        }
        return chart.canvas.svg(label: "Ground truth's increase over the KL divergence, a curve a teacher")
    }

    /// Each teacher's variance and what the ground truth gained.
    func varianceChart(_ runs: [Runs], _ name: String) -> String {
        guard let evaluation = evaluations.first(where: { $0.policy == runs.first?.policy })?.evaluation else {
            return ""
        }
        let marks = runs.map { run in
            (
                x: evaluation.qualities[run.teacher].variance.value,
                y: Self.mean(run.values(\.groundTruth, at: run.steps.last ?? 0)),
                teacher: run.teacher
            )
        }
        var chart = Chart(
            name: name, width: Self.size.width, height: Self.size.height, xName: "reward variance", yName: "increase",
            x: { Axis(over: marks.map(\.x) + [0], from: $0, to: $1) },
            y: { Axis(over: marks.map(\.y) + [0], from: $0, to: $1) }, xTick: { NumberText.fixed($0, 2) })
        for mark in marks {
            chart.canvas.circle(
                chart.x(mark.x), chart.y(mark.y), 5, "mark c\(mark.teacher % 8)", title: teachers[mark.teacher])
        }
        return chart.canvas.svg(label: "Ground truth's increase over the reward variance, a mark a teacher")
    }
}
