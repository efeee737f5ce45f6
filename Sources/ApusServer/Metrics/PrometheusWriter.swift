import ApusEngine

/// Writes metrics in Prometheus' text format (version 0.0.4).
struct PrometheusWriter {
    private(set) var text = ""
    private let labels: [(String, String)]

    /// - Parameter labels: on every metric.
    init(labels: [(String, String)]) { self.labels = labels }

    mutating func gauge(_ name: String, _ help: String, _ value: Double, _ more: [(String, String)] = []) {
        describe(name, help, "gauge")
        sample(name, more, value)
    }

    /// A counter, whose name ends with `_total`.
    mutating func counter(_ name: String, _ help: String, _ values: [(labels: [(String, String)], value: Int)]) {
        describe(name, help, "counter")
        for (more, value) in values { sample(name, more, Double(value)) }
    }

    mutating func counter(_ name: String, _ help: String, _ value: Int) { counter(name, help, [([], value)]) }

    mutating func histogram(_ name: String, _ help: String, _ histogram: Histogram) {
        describe(name, help, "histogram")
        var total = 0
        for (place, count) in histogram.counts.enumerated() {
            total += count
            let bound = place < histogram.bounds.count ? number(histogram.bounds[place]) : "+Inf"
            sample(name + "_bucket", [("le", bound)], Double(total))
        }
        sample(name + "_count", [], Double(total))
        sample(name + "_sum", [], histogram.sum)
    }

    private mutating func describe(_ name: String, _ help: String, _ type: String) {
        text += "# HELP \(name) \(help)\n# TYPE \(name) \(type)\n"
    }

    private mutating func sample(_ name: String, _ more: [(String, String)], _ value: Double) {
        text += name
        let all = more + labels
        if !all.isEmpty {
            text += "{" + all.map { "\($0.0)=\"\(escaped($0.1))\"" }.joined(separator: ",") + "}"
        }
        text += " \(number(value))\n"
    }

    /// As Python's client writes numbers: always with a fraction.
    private func number(_ value: Double) -> String { value.isFinite ? "\(value)" : value < 0 ? "-Inf" : "+Inf" }

    private func escaped(_ label: String) -> String {
        var result = ""
        for character in label.unicodeScalars {
            switch character {
            case "\\": result += "\\\\"
            case "\"": result += "\\\""
            case "\n": result += "\\n"
            default: result.unicodeScalars.append(character)
            }
        }
        return result
    }
}
