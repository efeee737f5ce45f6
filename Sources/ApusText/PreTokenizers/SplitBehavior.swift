/// What a split does with the parts of a text that its pattern matched.
enum SplitBehavior: String, Sendable {
    /// They are dropped.
    case removed = "Removed"
    /// They become pieces of their own.
    case isolated = "Isolated"
    /// They end the piece before them.
    case mergedWithPrevious = "MergedWithPrevious"
    /// They begin the piece after them.
    case mergedWithNext = "MergedWithNext"
    /// Neighbouring ones become one piece.
    case contiguous = "Contiguous"

    /// One part of a text: matched by the pattern or between two matches.
    struct Part: Equatable {
        var range: Range<Int>
        var isMatch: Bool
    }

    /// The pieces that the parts of a text, in order and without gaps, give.
    func pieces(_ parts: [Part]) -> [Range<Int>] {
        switch self {
        case .isolated: return parts.map(\.range)
        case .removed: return parts.filter { !$0.isMatch }.map(\.range)
        case .contiguous: return fold(parts) { previous, part in previous == part.isMatch }
        case .mergedWithPrevious: return fold(parts) { previous, part in part.isMatch && !previous }
        case .mergedWithNext:
            var pieces: [Range<Int>] = []
            var wasMatch = false
            for part in parts.reversed() {
                if part.isMatch, !wasMatch, let last = pieces.last {
                    pieces[pieces.count - 1] = part.range.lowerBound..<last.upperBound
                } else {
                    pieces.append(part.range)
                }
                wasMatch = part.isMatch
            }
            return pieces.reversed()
        }
    }

    private func fold(_ parts: [Part], joins: (Bool, Part) -> Bool) -> [Range<Int>] {
        var pieces: [Range<Int>] = []
        var wasMatch = false
        for part in parts {
            if joins(wasMatch, part), let last = pieces.last {
                pieces[pieces.count - 1] = last.lowerBound..<part.range.upperBound
            } else {
                pieces.append(part.range)
            }
            wasMatch = part.isMatch
        }
        return pieces
    }
}
