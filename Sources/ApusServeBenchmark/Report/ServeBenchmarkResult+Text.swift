extension ServeBenchmarkResult {
    /// The table that `vllm bench serve` prints, line by line.
    public var text: String {
        var lines = [Self.centered(" Serving Benchmark Result ", "=")]
        func add(_ name: String, _ value: String) { lines.append(Self.padded(name, 40) + " " + value) }
        add("Successful requests:", String(completed))
        add("Failed requests:", String(failed))
        for (name, value) in settings where name == "concurrency" || name == "rate" {
            add(name == "rate" ? "Request rate configured (RPS):" : "Maximum request concurrency:", value)
        }
        add("Benchmark duration (s):", Self.fixed(duration))
        add("Total input tokens:", String(inputTokens))
        add("Total generated tokens:", String(outputTokens))
        add("Request throughput (req/s):", Self.fixed(requestThroughput))
        if let goodput { add("Request goodput (req/s):", Self.fixed(goodput)) }
        add("Output token throughput (tok/s):", Self.fixed(outputThroughput))
        add("Peak output token throughput (tok/s):", Self.fixed(peakOutputThroughput))
        add("Peak concurrent requests:", String(peakConcurrency))
        add("Total token throughput (tok/s):", Self.fixed(totalThroughput))
        for (_, title, unit, values) in distributions {
            lines.append(Self.centered(title, "-"))
            add("Mean \(unit) (ms):", Self.fixed(values.mean))
            add("Median \(unit) (ms):", Self.fixed(values.percentile(0.5)))
            add("P99 \(unit) (ms):", Self.fixed(values.percentile(0.99)))
        }
        if let speculation {
            lines.append(Self.centered("Speculative Decoding", "-"))
            add("Acceptance rate (%):", Self.fixed(speculation.acceptanceRate * 100))
            add("Acceptance length:", Self.fixed(speculation.acceptanceLength))
            add("Drafts:", Self.fixed(speculation.drafts, 0))
            add("Draft tokens:", Self.fixed(speculation.draftTokens, 0))
            add("Accepted tokens:", Self.fixed(speculation.acceptedTokens, 0))
        }
        lines.append(Self.centered("Client", "-"))
        add("Processor time of this client (s):", Self.fixed(clientSeconds, 3))
        lines.append(String(repeating: "=", count: 50))
        for (reason, count) in failures.prefix(5) { lines.append("failed \(count) times: \(reason)") }
        return lines.joined(separator: "\n") + "\n"
    }

    private static func centered(_ text: String, _ fill: Character) -> String {
        let room = max(50 - text.count, 0)
        return String(repeating: fill, count: room / 2) + text + String(repeating: fill, count: room - room / 2)
    }

    private static func padded(_ text: String, _ width: Int) -> String {
        text + String(repeating: " ", count: max(width - text.count, 0))
    }

    /// A number with a fixed number of decimals.
    static func fixed(_ value: Double, _ digits: Int = 2) -> String {
        guard value.isFinite, value.magnitude < 1e15 else { return "\(value)" }
        let scale = [1.0, 10, 100, 1000][digits]
        let scaled = Int64((value.magnitude * scale).rounded())
        let sign = value < 0 && scaled != 0 ? "-" : ""
        guard digits > 0 else { return sign + String(scaled) }
        let fraction = String(scaled % Int64(scale))
        return "\(sign)\(scaled / Int64(scale))." + String(repeating: "0", count: digits - fraction.count) + fraction
    }
}
