/// Metrics of several servers as one text in Prometheus's format: each sample gets the label `replica`.
package struct MergedMetrics {
    private struct Family {
        var comments: [Substring] = []
        var samples: [String] = []
    }

    private var families: [Substring: Family] = [:]
    private var order: [Substring] = []

    /// Nothing yet.
    package init() {}

    /// Whether nothing was added.
    package var isEmpty: Bool { order.isEmpty }

    /// Adds one server's text; families keep the order in which they first came.
    package mutating func add(_ text: String, replica: Int) {
        var current: Substring = ""
        for line in text.split(whereSeparator: \.isNewline) {
            if line.hasPrefix("#") {
                let words = line.split(separator: " ", maxSplits: 3)
                guard words.count > 2 else { continue }
                current = words[2]
                begin(current)
                // HELP and TYPE once.
                if !families[current]!.comments.contains(line) { families[current]!.comments.append(line) }
                continue
            }
            let name = line.prefix { $0 != "{" && $0 != " " }
            // Samples of a histogram or summary are named after their family with an ending.
            let key = !current.isEmpty && name.hasPrefix(current) ? current : name
            begin(key)
            families[key]!.samples.append(Self.labelled(line, name, replica))
        }
    }

    private mutating func begin(_ name: Substring) {
        guard families[name] == nil else { return }
        order.append(name)
        families[name] = Family()
    }

    private static func labelled(_ line: Substring, _ name: Substring, _ replica: Int) -> String {
        let rest = line.dropFirst(name.count)
        guard rest.hasPrefix("{") else { return "\(name){replica=\"\(replica)\"}\(rest)" }
        let labels = rest.dropFirst()
        return "\(name){replica=\"\(replica)\"\(labels.hasPrefix("}") ? "" : ",")\(labels)"
    }

    /// All of it.
    package var text: String {
        order.map { name in
            let family = families[name]!
            return (family.comments.map(String.init) + family.samples).map { $0 + "\n" }.joined()
        }.joined()
    }
}
