import ArgumentParser

/// Token ids, or counts, as a person types them: integers separated by commas.
struct TokenList: ExpressibleByArgument, CustomStringConvertible {
    let ids: [Int32]

    init(_ ids: [Int32]) {
        self.ids = ids
    }

    init?(argument: String) {
        var ids: [Int32] = []
        for part in argument.split(separator: ",", omittingEmptySubsequences: false) {
            guard let id = Int32(part.filter { $0 != " " }) else { return nil }
            ids.append(id)
        }
        self.ids = ids
    }

    var description: String { ids.map(String.init).joined(separator: ",") }
}
