/// What can be wrong with a cache geometry or its sharding.
public enum GeometryError: Error, Equatable, CustomStringConvertible {
    /// A count or a width is below its least legal value.
    case tooSmall(name: String, found: Int, atLeast: Int)
    /// The groups do not divide the query heads evenly.
    case groupsDoNotDivideHeads(queryHeads: Int, groups: Int)
    /// The ranks do not divide the query heads evenly.
    case ranksDoNotDivideHeads(ranks: Int, queryHeads: Int)
    /// Neither do the ranks divide the groups nor the groups the ranks.
    case ranksDoNotFitGroups(ranks: Int, groups: Int)
    /// The RoPE width leaves nothing to share, or is not smaller than the head.
    case ropeWidth(found: Int, headWidth: Int)

    /// One sentence for people.
    public var description: String {
        switch self {
        case .tooSmall(let name, let found, let least): "\(name): expected at least \(least), found \(found)"
        case .groupsDoNotDivideHeads(let heads, let groups):
            "cache groups: expected a divisor of \(heads) query heads, found \(groups)"
        case .ranksDoNotDivideHeads(let ranks, let heads):
            "tensor parallelism: expected a divisor of \(heads) query heads, found \(ranks) ranks"
        case .ranksDoNotFitGroups(let ranks, let groups):
            "tensor parallelism: expected a divisor or a multiple of \(groups) cache groups, found \(ranks) ranks"
        case .ropeWidth(let found, let width):
            "RoPE width: expected between 0 and the head width \(width), exclusive of the latter, found \(found)"
        }
    }

    static func require(_ name: String, _ found: Int, atLeast: Int) throws(GeometryError) {
        guard found >= atLeast else { throw GeometryError.tooSmall(name: name, found: found, atLeast: atLeast) }
    }
}
