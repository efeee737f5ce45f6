/// The most similar of some names: for messages about names that do not exist.
enum NearestName {
    /// The name at the smallest edit distance, case and underscores aside; of equally near ones the first.
    /// Precondition: there is one.
    static func nearest(to name: some StringProtocol, among names: some Collection<String>) -> String {
        let wanted = folded(name)
        return names.min { distance(wanted, folded($0)) < distance(wanted, folded($1)) }!
    }

    /// The smallest number of insertions, deletions and replacements that turn one name into the other (Levenshtein).
    static func distance(_ a: [UInt8], _ b: [UInt8]) -> Int {
        var row = Array(0...b.count)
        for (i, x) in a.enumerated() {
            var diagonal = row[0]
            row[0] = i + 1
            for (j, y) in b.enumerated() {
                let replaced = diagonal + (x == y ? 0 : 1)
                diagonal = row[j + 1]
                row[j + 1] = min(replaced, row[j] + 1, row[j + 1] + 1)
            }
        }
        return row[b.count]
    }

    static func folded(_ name: some StringProtocol) -> [UInt8] {
        name.lowercased().utf8.filter { $0 != UInt8(ascii: "_") && $0 != UInt8(ascii: "-") }
    }
}
