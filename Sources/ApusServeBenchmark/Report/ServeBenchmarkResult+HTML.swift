extension ServeBenchmarkResult {
    /// A page with the figures and the four distributions, which needs nothing but itself.
    public var html: String {
        var page = """
            <!doctype html><html lang="en"><head><meta charset="utf-8">
            <meta name="viewport" content="width=device-width, initial-scale=1">
            <title>Serving benchmark</title><style>\(Self.style)</style></head><body>
            <h1>Serving benchmark</h1><p class="settings">
            """
        page += settings.map { "<span><b>\(Self.escaped($0.name))</b> \(Self.escaped($0.value))</span>" }.joined(
            separator: " ")
        page += "</p><table><tbody>"
        for (name, value) in figures { page += "<tr><th>\(name)</th><td>\(value)</td></tr>" }
        page +=
            "</tbody></table><table><thead><tr><th>ms</th><th>mean</th><th>median</th><th>p90</th><th>p99</th></tr></thead><tbody>"
        for (_, title, unit, values) in distributions {
            let cells = [values.mean, values.percentile(0.5), values.percentile(0.9), values.percentile(0.99)]
            page +=
                "<tr><th title=\"\(title)\">\(unit)</th>" + cells.map { "<td>\(Self.fixed($0))</td>" }.joined()
                + "</tr>"
        }
        page += "</tbody></table><main>"
        for (_, title, unit, values) in distributions {
            page += "<figure><figcaption>\(title) (\(unit), ms; \(values.values.count) values)</figcaption>"
            page += HistogramDrawing(values: values, title: title).svg + "</figure>"
        }
        page += "</main>"
        if !failures.isEmpty {
            page += "<h2>Failures</h2><ul>"
            for (reason, count) in failures.prefix(20) { page += "<li>\(count) × \(Self.escaped(reason))</li>" }
            page += "</ul>"
        }
        return page + "</body></html>\n"
    }

    private var figures: [(String, String)] {
        var result = [
            ("Successful requests", String(completed)), ("Failed requests", String(failed)),
            ("Duration (s)", Self.fixed(duration)), ("Input tokens", String(inputTokens)),
            ("Generated tokens", String(outputTokens)), ("Requests/s", Self.fixed(requestThroughput)),
            ("Output tokens/s", Self.fixed(outputThroughput)), ("Tokens/s", Self.fixed(totalThroughput)),
            ("Most requests at once", String(peakConcurrency)),
            ("Client's processor time (s)", Self.fixed(clientSeconds, 3)),
        ]
        if let goodput { result.append(("Good requests/s", Self.fixed(goodput))) }
        if let speculation {
            result.append(("Acceptance rate (%)", Self.fixed(speculation.acceptanceRate * 100)))
            result.append(("Acceptance length", Self.fixed(speculation.acceptanceLength)))
        }
        return result
    }

    private static func escaped(_ text: String) -> String {
        var result = ""
        for character in text {
            switch character {
            case "&": result += "&amp;"
            case "<": result += "&lt;"
            case ">": result += "&gt;"
            case "\"": result += "&quot;"
            default: result.append(character)
            }
        }
        return result
    }

    private static let style = """
        :root{color-scheme:light dark;--ink:#1d2733;--soft:#66727f;--line:#d7dde4;--bar:#3b7dd8;--mid:#0b8f5a;--far:#c8442b;\
        --back:#fff}
        @media(prefers-color-scheme:dark){:root{--ink:#e4e9ee;--soft:#98a4b1;--line:#36424f;--bar:#5b9df0;--mid:#3fc98d;\
        --far:#f0775f;--back:#12181f}}
        body{font:15px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--back);max-width:62rem;margin:2rem auto;\
        padding:0 1rem}
        h1{font-size:1.4rem;margin:0 0 .4rem}.settings span{margin-right:1em}.settings{color:var(--soft)}
        table{border-collapse:collapse;margin:1rem 2rem 1rem 0;display:inline-table;vertical-align:top}
        th,td{padding:.2rem .7rem;border-bottom:1px solid var(--line);text-align:right}th:first-child{text-align:left}
        main{display:grid;grid-template-columns:repeat(auto-fit,minmax(20rem,1fr));gap:1rem}
        figure{margin:0}figcaption{color:var(--soft);font-size:.9rem}svg{width:100%}
        .bar{fill:var(--bar)}.axis{stroke:var(--line)}.tick{font-size:9px;fill:var(--soft)}
        .median{stroke:var(--mid);stroke-width:1.5}.p99{stroke:var(--far);stroke-width:1.5}
        """
}
