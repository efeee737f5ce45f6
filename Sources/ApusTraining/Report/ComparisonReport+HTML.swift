import ApusReport

extension ComparisonReport {
    /// The report as one page without scripts or outside files; it follows the reader's choice of light or dark.
    public var html: String {
        HTMLPage(
            title: title,
            body: """
                \(HTMLPage.settings(setting))
                <p class="reading">\(HTMLText.escaped(reading))</p>
                <h2>Result</h2>
                \(table)
                <p class="note">Mean and standard deviation over seeds. Perplexity is exp of the loss on held-out text. Cache: \
                bytes that one token leaves in the caches of all layers on one device, at \
                \(NumberText.fixed(bytesPerElement, bytesPerElement.rounded() == bytesPerElement ? 0 : 2)) bytes an element and \
                tensor parallelism (TP) over 1 to 8 devices; a dash where the heads cannot be divided.</p>
                <h2>Perplexity against cache</h2>
                <div class="grid">
                \(possibleRanks.map { HTMLPage.figure("TP \($0)", cacheChart(ranks: $0)) }.joined())</div>
                <p class="note">Points are means over seeds, whiskers reach from the lowest to the highest. Lower and further \
                left is better.</p>
                <h2>Curves</h2>
                <div class="grid">
                \(HTMLPage.figure("Validation loss", lossChart("validation", \.validation)))\
                \(HTMLPage.figure("Validation loss less that of \(variants.first?.name ?? "the first variant")", differenceChart()))\
                \(HTMLPage.figure("Training loss, smoothed", lossChart("training", \.training, smoothing: 5)))</div>
                <p class="note">Means over seeds. The first, steep part of the curves is above the frame.</p>
                """
        ).html
    }

    /// What the figures allow one to say: the differences beside the spread between seeds.
    var reading: String {
        let losses = variants.compactMap { variant in variant.loss.map { (name: variant.name, loss: $0) } }
        guard let best = losses.min(by: { $0.loss.mean < $1.loss.mean }),
            let worst = losses.max(by: { $0.loss.mean < $1.loss.mean })
        else { return "No run has been evaluated yet." }
        guard losses.count > 1 else { return "One variant, so there is nothing to compare." }
        let difference = worst.loss.mean - best.loss.mean
        var text =
            "From \(best.name), the lowest, to \(worst.name), the highest, the mean validation loss differs by "
            + "\(NumberText.fixed(difference, 4)) nats. "
        let deviations = losses.compactMap(\.loss.deviation)
        guard !deviations.isEmpty else {
            return text + "There is one seed a variant, so nothing says how much of it is chance."
        }
        // The pooled deviation of one run, for which each variant's squares count alike.
        let pooled = (deviations.reduce(0) { $0 + $1 * $1 } / Double(deviations.count)).squareRoot()
        text +=
            "Between seeds of one variant it varies by \(NumberText.fixed(pooled, 4)) nats (pooled standard deviation). "
        let seeds = Double(variants.map(\.losses.count).min() ?? 1)
        let error = pooled * (2 / max(seeds, 1)).squareRoot()
        return text
            + (difference < 2 * error
                ? "So no difference between variants stands out from chance."
                : "Differences below about \(NumberText.fixed(2 * error, 4)) nats, two standard errors, may be chance.")
    }

    private var table: String {
        let heads =
            ["variant", "parameters", "runs", "validation loss", "perplexity", "tokens/s"]
            + Self.ranks.map { "TP \($0)" }
        var rows = ""
        for variant in variants {
            var cells = [
                "<th scope=\"row\"><span class=\"key \(Self.color(variant.index))\"></span>\(HTMLText.escaped(variant.name))</th>"
            ]
            let speeds = variant.runs.compactMap(\.tokensPerSecond)
            var values = [
                NumberText.grouped(variant.runs.first?.parameters ?? 0), "\(variant.runs.count)",
                Self.text(variant.loss, 4), Self.text(variant.perplexity, 2),
                Statistics(speeds).map { NumberText.grouped(Int($0.mean.rounded())) } ?? "–",
            ]
            values += Self.ranks.map { ranks in
                variant.cacheBytes(ranks: ranks, bytesPerElement: bytesPerElement).map {
                    NumberText.grouped(Int($0.rounded()))
                } ?? "–"
            }
            cells += values.map { "<td>\($0)</td>" }
            rows += "<tr>\(cells.joined())</tr>\n"
        }
        return """
            <div class="scroll"><table>
            <thead><tr><td colspan="6"></td><th colspan="\(Self.ranks.count)">cache bytes per token and device</th></tr>
            <tr>\(heads.map { "<th scope=\"col\">\($0)</th>" }.joined())</tr></thead>
            <tbody>
            \(rows)</tbody></table></div>
            """
    }

    private static func text(_ statistics: Statistics?, _ decimals: Int) -> String {
        guard let statistics else { return "–" }
        let mean = NumberText.fixed(statistics.mean, decimals)
        return statistics.deviation.map { "\(mean) ± \(NumberText.fixed($0, decimals))" } ?? mean
    }
}
