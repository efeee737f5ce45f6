/// Finds where the last tokens of a sequence came before, and what followed there.
///
/// Keeps the latest place of each n-gram, for two sizes; a new token costs two dictionary entries.
struct NGramIndex {
    /// A continuation, and how many tokens of context it rests on.
    struct Match {
        let tokens: [Int32]
        /// Index into ``sizes``.
        let size: Int
    }

    /// Tokens of context, the more reliable first.
    static let sizes = [4, 2]

    private var following: [[UInt64: Int32]] = Array(repeating: [:], count: sizes.count)
    private var indexed = 0

    /// What may follow `tokens`, at most `limit` tokens, or nil when their end is new. A place near the end is gone on with
    /// as a period. Precondition: `tokens` begins with those of the call before.
    mutating func match(_ tokens: [Int32], limit: Int) -> Match? {
        // The n-gram at the end is not indexed before something follows it.
        while indexed < tokens.count - 1 {
            for (size, count) in Self.sizes.enumerated() where indexed + 1 >= count {
                following[size][Self.key(tokens, endingAt: indexed + 1, count)] = Int32(indexed + 1)
            }
            indexed += 1
        }
        for (size, count) in Self.sizes.enumerated() where tokens.count > count {
            guard let place = following[size][Self.key(tokens, endingAt: tokens.count, count)] else { continue }
            let start = Int(place)
            guard tokens[(start - count)..<start] == tokens[(tokens.count - count)...] else { continue }
            let period = tokens.count - start
            return Match(tokens: (0..<limit).map { tokens[start + $0 % period] }, size: size)
        }
        return nil
    }

    private static func key(_ tokens: [Int32], endingAt end: Int, _ count: Int) -> UInt64 {
        var hash: UInt64 = 0
        for token in tokens[(end - count)..<end] {
            hash = (hash ^ UInt64(UInt32(bitPattern: token))) &* 0x9E37_79B9_7F4A_7C15
            hash ^= hash >> 32
        }
        return hash
    }
}
