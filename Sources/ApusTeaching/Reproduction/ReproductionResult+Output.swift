import ApusReport
import ApusText

extension ReproductionResult {
    private static let columns = [
        "teacher", "variance", "mean Var^(1/2)", "near zero", "on-policy accuracy", "off-policy accuracy",
        "proxy increase", "ground-truth increase", "KL",
    ]

    private func cells(_ run: Runs, at step: Int) -> [String] {
        guard let evaluation = evaluations.first(where: { $0.policy == run.policy })?.evaluation else { return [] }
        let quality = evaluation.qualities[run.teacher]
        func three(_ value: Double?) -> String { value.map { NumberText.fixed($0, 3) } ?? "–" }
        func spread(_ key: KeyPath<Curve, [Double]>) -> String {
            Self.spread(run.values(key, at: step))
        }
        return [
            teachers[run.teacher], three(quality.variance.value), three(quality.meanSquareRoot.value),
            three(quality.nearZeroShare.value), three(quality.onPolicyAccuracy?.value),
            three(quality.offPolicyAccuracy?.value), spread(\.proxy), spread(\.groundTruth), spread(\.kl),
        ]
    }

    /// Mean and deviation over seeds.
    private static func spread(_ values: [Double]) -> String {
        let deviation = deviation(values).map { " ± " + NumberText.fixed($0, 3) } ?? ""
        return values.isEmpty ? "–" : NumberText.fixed(mean(values), 3) + deviation
    }

    /// The ground truth's increase after each step that was measured, a row a teacher.
    private func stepRows(_ group: Group) -> [[String]] {
        runs(of: group).map { run in
            [teachers[run.teacher]] + steps(of: group).map { Self.spread(run.values(\.groundTruth, at: $0)) }
        }
    }

    private func stepColumns(_ group: Group) -> [String] {
        ["ground-truth increase after"] + steps(of: group).map { "\($0) steps" }
    }

    private static func pair(_ link: Link) -> String {
        func cell(_ value: Double?) -> String { value.map { NumberText.fixed($0, 2) } ?? "–" }
        return "\(cell(link.pearson)) / \(cell(link.spearman))"
    }

    private static let increases: [(name: String, key: KeyPath<Curve, [Double]> & Sendable)] = [
        ("proxy", \.proxy), ("ground truth", \.groundTruth),
    ]

    /// The links of every property with both increases after a step, a row each.
    private func linkRows(_ group: Group, at step: Int) -> [[String]] {
        let columns = [true, false].flatMap { ofPaper in
            Self.increases.map { links($0.key, group, at: step, ofPaper: ofPaper) }
        }
        return Self.properties.indices.map { row in
            [Self.properties[row].name] + columns.map { $0.indices.contains(row) ? Self.pair($0[row]) : "–" }
        }
    }

    /// How the links of variance and of accuracy go with the steps: a row each.
    private func linkStepRows(_ group: Group) -> [[String]] {
        ["variance", "on-policy accuracy"].flatMap { property in
            [true, false].flatMap { ofPaper in
                Self.increases.map { increase -> [String] in
                    let cells = steps(of: group).map { step in
                        links(increase.key, group, at: step, ofPaper: ofPaper).first { $0.property == property }
                            .map(Self.pair) ?? "–"
                    }
                    let teachers = ofPaper ? "the paper's models" : "all teachers"
                    return ["\(property), \(increase.name), \(teachers)"] + cells
                }
            }
        }
    }

    private func linkStepColumns(_ group: Group) -> [String] {
        ["Pearson / Spearman with the increase after"] + steps(of: group).map { "\($0) steps" }
    }

    private static let linkColumns = [
        "Pearson / Spearman of", "proxy, the paper's models", "ground truth, the paper's models", "proxy, all teachers",
        "ground truth, all teachers",
    ]

    private func title(_ group: Group) -> String {
        "\(group.estimator.uppercased()) of the \(group.policy)"
    }

    private func isWhole(_ group: Group) -> Bool {
        runs(of: group).count == teachers.count
    }

    /// Tables in Markdown.
    public var markdown: String {
        func table(_ columns: [String], _ rows: [[String]]) -> String {
            let all = [columns, columns.map { _ in "---" }] + rows
            return all.map { "| " + $0.joined(separator: " | ") + " |\n" }.joined()
        }
        return groups.map { group in
            let last = steps(of: group).last ?? 0
            var text = "\(title(group))\n\n" + table(Self.columns, runs(of: group).map { cells($0, at: last) })
            text += "\n" + table(stepColumns(group), stepRows(group))
            if isWhole(group) {
                text += "\n" + table(Self.linkColumns, linkRows(group, at: last))
                text += "\n" + table(linkStepColumns(group), linkStepRows(group))
            }
            return text + "\n"
        }.joined() + reading + "\n"
    }

    /// What the figures say of the paper's claims.
    public var reading: String {
        groups.flatMap { group in
            let steps = steps(of: group)
            return (steps.count > 1 ? [steps[0], steps[steps.count - 1]] : steps).map { reading(group, at: $0) }
        }.joined(separator: "\n")
    }

    private func reading(_ group: Group, at step: Int) -> String {
        let found = runs(of: group)
        let increases = found.map { Self.mean($0.values(\.groundTruth, at: step)) }
        guard let best = increases.indices.max(by: { increases[$0] < increases[$1] }) else { return "" }
        var text = "\(title(group)), after \(step) steps: the ground truth rose most by "
        text += "\(teachers[found[best].teacher]) "
        text += "(\(NumberText.fixed(increases[best], 3)))"
        if isWhole(group) {
            let proxies = found.indices.filter { isOfPaper[found[$0].teacher] && !isPerfect(found[$0].teacher) }
            for perfect in found.indices where isPerfect(found[perfect].teacher) && !isTruth(found[perfect].teacher) {
                let better = proxies.filter { increases[$0] > increases[perfect] }.count
                text += "; \(better) of the \(proxies.count) less accurate reward models taught more than "
                text += "\(teachers[found[perfect].teacher]) (\(NumberText.fixed(increases[perfect], 3)))"
            }
            if let truth = found.indices.first(where: { isTruth(found[$0].teacher) }) {
                let better = proxies.filter { increases[$0] > increases[truth] }.count
                text += "; \(better) of them taught more than the ground truth itself "
                text += "(\(NumberText.fixed(increases[truth], 3)))"
            }
            if let link = links(\.proxy, group, at: step, ofPaper: true).first,
                let pearson = link.pearson
            {
                text += "; variance and the proxy's increase correlate by \(NumberText.fixed(pearson, 2)) (Pearson)"
            }
        }
        return text + "."
    }

    private func isTruth(_ teacher: Int) -> Bool { teacher == teachers.count - 1 }
    /// The ground truth and what is made of it stand behind the reward models.
    private func isPerfect(_ teacher: Int) -> Bool { teacher >= teachers.count - 3 }

    /// Every figure.
    public var json: JSONValue {
        func numbers(_ values: [Double]) -> JSONValue { .array(values.map { .double($0) }) }
        var root = JSONObject()
        root["setting"] = .object(JSONObject(setting.map { ($0.name, JSONValue.string($0.value)) }))
        root["reading"] = .string(reading)
        root["teachers"] = .array(teachers.map { .string($0) })
        root["evaluations"] = .object(JSONObject(evaluations.map { ($0.policy, $0.evaluation.json) }))
        root["runs"] = .array(
            runs.map { run in
                .object([
                    "estimator": .string(run.estimator), "policy": .string(run.policy),
                    "teacher": .string(teachers[run.teacher]),
                    "curves": .array(
                        run.curves.map { curve in
                            .object([
                                "seed": .integer(Int64(curve.seed)),
                                "steps": .array(curve.steps.map { .integer(Int64($0)) }),
                                "proxy": numbers(curve.proxy), "groundTruth": numbers(curve.groundTruth),
                                "kl": numbers(curve.kl),
                            ])
                        }),
                ])
            })
        return .object(root)
    }

    /// The report as one page.
    public var html: String {
        func table(_ columns: [String], _ rows: [[String]], _ colors: [Int]?) -> String {
            let head = columns.map { "<th scope=\"col\">\(HTMLText.escaped($0))</th>" }.joined()
            let body = rows.enumerated().map { place, cells in
                let key = colors.map { "<span class=\"key c\($0[place] % 8)\"></span>" } ?? ""
                let rest = cells.dropFirst().map { "<td>\(HTMLText.escaped($0))</td>" }.joined()
                return "<tr><th scope=\"row\">\(key)\(HTMLText.escaped(cells[0]))</th>\(rest)</tr>\n"
            }
            return
                "<div class=\"scroll\"><table><thead><tr>\(head)</tr></thead><tbody>\(body.joined())</tbody></table></div>\n"
        }
        let sections = groups.map { group -> String in
            let found = runs(of: group)
            let last = steps(of: group).last ?? 0
            var text = "<h2>\(HTMLText.escaped(title(group)))</h2>\n"
            text += table(Self.columns, found.map { cells($0, at: last) }, found.map(\.teacher))
            text += table(stepColumns(group), stepRows(group), found.map(\.teacher))
            if isWhole(group) {
                text += table(Self.linkColumns, linkRows(group, at: last), nil)
                text += table(linkStepColumns(group), linkStepRows(group), nil)
            }
            let name = "\(group.estimator)-\(group.policy)"
            text += "<div class=\"grid\">"
            text += HTMLPage.figure("Ground truth", curveChart(found, \.groundTruth, "truth-\(name)"))
            text += HTMLPage.figure("Proxy reward", curveChart(found, \.proxy, "proxy-\(name)"))
            text += HTMLPage.figure("Ground truth against KL", klChart(found, "kl-\(name)"))
            if isWhole(group) {
                text += HTMLPage.figure(
                    "Reward variance and the ground truth's increase", varianceChart(found, "variance-\(name)"))
            }
            return text + "</div>\n"
        }
        return HTMLPage(
            title: "What makes a reward model a good teacher, with a small policy",
            body: """
                \(HTMLPage.settings(setting))
                \(reading.split(separator: "\n").map { "<p class=\"reading\">\(HTMLText.escaped(String($0)))</p>\n" }.joined())
                \(sections.joined())
                <p class="note">Increases over the initial policy on held-out prompts, after the last step unless it says another, mean and standard \
                deviation over the seeds. Proxy: the reward that the policy learns from, normalised. Variance: mean over prompts \
                of the unbiased variance within a prompt, after normalisation over all outputs.</p>
                """
        ).html
    }
}
