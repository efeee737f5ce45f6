import ApusReport

extension ServingReport {
    /// The report as text.
    public var text: String {
        var lines = facts.map { Self.padded($0.name, 16) + $0.value }
        lines.append("")
        lines += Self.table(
            [["step", "ms", "memory", "compute", "links", "launches", "bound by"]]
                + steps.map { step in
                    [step.name, Self.milliseconds(step.time.seconds)]
                        + [step.time.memory, step.time.compute, step.time.communication, step.time.overhead].map {
                            Self.milliseconds($0)
                        } + [step.time.bound.rawValue]
                })
        guard !runs.isEmpty else { return lines.joined(separator: "\n") + "\n" }
        lines += ["", workload, ""]
        lines += Self.table([Self.runHeader] + runs.map(Self.row))
        return lines.joined(separator: "\n") + "\n"
    }

    static let runHeader = [
        "load", "output tok/s", "TTFT mean", "median", "p99 s", "TPOT mean", "median", "p99 ms", "ITL mean", "median",
        "p99 ms", "E2E mean", "median", "p99 s", "at once", "preempted",
    ]

    static func row(_ run: Run) -> [String] {
        let result = run.result
        func three(_ values: WeightedDistribution, _ scale: Double) -> [String] {
            [values.mean, values.median, values.percentile(0.99)].map { number($0 * scale) }
        }
        return [run.name, number(result.outputThroughput)] + three(result.ttft, 1) + three(result.tpot, 1000)
            + three(result.itl, 1000) + three(result.e2el, 1)
            + ["\(result.peakRunning)", "\(result.preemptions)"]
    }

    /// Three or more digits.
    static func number(_ value: Double) -> String {
        NumberText.fixed(value, abs(value) < 10 ? 3 : abs(value) < 100 ? 2 : abs(value) < 1000 ? 1 : 0)
    }

    static func milliseconds(_ seconds: Double) -> String { NumberText.fixed(seconds * 1000, 2) }

    /// Rows in columns, the first to the left, the others to the right.
    static func table(_ rows: [[String]]) -> [String] {
        let widths = (rows.first ?? []).indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
        return rows.map { row in
            row.enumerated().map { column, cell in
                column == 0
                    ? padded(cell, widths[0])
                    : String(repeating: " ", count: widths[column] - cell.count) + cell
            }.joined(separator: "  ")
        }
    }

    static func padded(_ text: String, _ width: Int) -> String {
        text + String(repeating: " ", count: max(width - text.count, 0))
    }
}
