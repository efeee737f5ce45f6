/// Sequences of tokens with the token after each: inputs are all but the last, targets all but the first.
public struct TokenBatch: Sendable, Equatable {
    /// Sequences.
    public let rows: Int
    /// Tokens of a sequence, without the one after it.
    public let length: Int
    /// The tokens, rows x (length + 1), row after row.
    public let tokens: [Int32]
    /// For each row, the places (0 ..< length + 1) at which documents start, in order. A row that begins within a
    /// document has no start at 0.
    public let documentStarts: [[Int]]

    /// The inputs, rows x length.
    public var inputs: [Int32] { slice(from: 0) }

    /// The targets, rows x length: for each input the token after it.
    public var targets: [Int32] { slice(from: 1) }

    /// For each input (rows x length) the place in its row where its document starts, 0 where that is before the row:
    /// a query may attend to keys from that place on when attention stays within documents.
    public var segmentStarts: [Int32] {
        var result: [Int32] = []
        result.reserveCapacity(rows * length)
        for starts in documentStarts {
            var next = 0
            var current: Int32 = 0
            for place in 0..<length {
                if next < starts.count, starts[next] == place {
                    current = Int32(place)
                    next += 1
                }
                result.append(current)
            }
        }
        return result
    }

    private func slice(from first: Int) -> [Int32] {
        var result: [Int32] = []
        result.reserveCapacity(rows * length)
        for row in 0..<rows {
            let start = row * (length + 1) + first
            result += tokens[start..<start + length]
        }
        return result
    }
}
