/// A regular expression as a tree.
indirect enum RegexNode {
    enum Anchor {
        case lineStart, lineEnd, textStart, textEnd
    }

    /// How a repetition gives back what it took: as little as it must, from the longest or from the shortest, or never.
    enum Greed {
        case greedy, lazy, possessive
    }

    case empty
    case set(CharacterSet)
    case sequence([RegexNode])
    case alternatives([RegexNode])
    case repetition(RegexNode, min: Int, max: Int?, Greed)
    case look(RegexNode, isAhead: Bool, isNegative: Bool)
    case atomic(RegexNode)
    case anchor(Anchor)

    /// Whether it can match the empty string.
    var isNullable: Bool {
        switch self {
        case .set: false
        case .empty, .look, .anchor: true
        case .sequence(let nodes): nodes.allSatisfy(\.isNullable)
        case .alternatives(let nodes): nodes.contains(where: \.isNullable)
        case .repetition(let node, let min, _, _): min == 0 || node.isNullable
        case .atomic(let node): node.isNullable
        }
    }
}
