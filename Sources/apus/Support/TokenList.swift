import ArgumentParser

/// Token ids as a person types them: integers separated by commas.
struct TokenList: ExpressibleByArgument {
    let ids: [Int32]

    init?(argument: String) {
        var ids: [Int32] = []
        for part in argument.split(separator: ",", omittingEmptySubsequences: false) {
            guard let id = Int32(part.filter { $0 != " " }) else { return nil }
            ids.append(id)
        }
        self.ids = ids
    }
}
