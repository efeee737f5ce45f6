extension AttentionPlan {
    /// A table of plans: a row per plan and number of ranks, columns aligned with spaces.
    public static func table(_ plans: [AttentionPlan]) -> String {
        var rows = [["attention", "TP", "bytes/token/device", "duplication", "FLOP/byte", "2 g_q/m_kv"]]
        for plan in plans {
            for (index, (ranks, device)) in zip(plan.setting.ranks, plan.devices).enumerated() {
                let name = index == 0 ? plan.name : ""
                let nominal = index == 0 ? decimal(plan.nominalIntensity) : ""
                switch device {
                case .success(let device):
                    rows.append([
                        name, "\(ranks)", decimal(device.bytesPerToken), "\(device.duplication)",
                        decimal(device.intensity), nominal,
                    ])
                case .failure(let error): rows.append([name, "\(ranks)", "-", "-", "-", nominal, "(\(error))"])
                }
            }
        }
        let widths = (0..<6).map { column in rows.map { $0[column].count }.max() ?? 0 }
        return rows.map { row in
            let cells = row.enumerated().map { column, cell in
                guard column < 6 else { return cell }
                let padding = String(repeating: " ", count: widths[column] - cell.count)
                return column == 0 ? cell + padding : padding + cell
            }
            return trimmed(cells.joined(separator: "  "))
        }.joined(separator: "\n")
    }

    private static func trimmed(_ line: String) -> String {
        String(line.reversed().drop { $0 == " " }.reversed())
    }

    /// At most two decimals, none where they would be zero.
    private static func decimal(_ value: Double) -> String {
        let hundredths = Int((value * 100).rounded())
        let (whole, rest) = (hundredths / 100, hundredths % 100)
        if rest == 0 { return "\(whole)" }
        return rest % 10 == 0 ? "\(whole).\(rest / 10)" : "\(whole).\(rest < 10 ? "0" : "")\(rest)"
    }
}
