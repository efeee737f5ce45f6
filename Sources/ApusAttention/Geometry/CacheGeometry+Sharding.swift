/// One rank's share of a geometry under tensor parallelism.
public struct ShardedGeometry: Sendable, Hashable {
    /// What one rank keeps and computes.
    public let local: CacheGeometry
    /// Ranks.
    public let ranks: Int
    /// Ranks that keep the same group: D in the paper, 1 when no group is kept twice. (A key kept once for all groups is
    /// on every rank in any case.)
    public let duplication: Int

    /// The query heads of a rank, out of all.
    public func queryHeads(ofRank rank: Int) -> Range<Int> {
        rank * local.queryHeads..<(rank + 1) * local.queryHeads
    }

    /// The groups of a rank, out of all.
    public func groups(ofRank rank: Int) -> Range<Int> {
        let first = duplication > 1 ? rank / duplication : rank * local.groups
        return first..<first + local.groups
    }
}

extension CacheGeometry {
    /// One rank's share over `ranks` devices.
    ///
    /// The ranks divide the query heads, and they divide the groups, or the groups divide them: then each group is kept
    /// by `ranks / groups` of them. Anything else throws ``GeometryError``.
    public func sharded(over ranks: Int) throws(GeometryError) -> ShardedGeometry {
        try GeometryError.require("ranks", ranks, atLeast: 1)
        guard queryHeads % ranks == 0 else {
            throw GeometryError.ranksDoNotDivideHeads(ranks: ranks, queryHeads: queryHeads)
        }
        guard groups % ranks == 0 || ranks % groups == 0 else {
            throw GeometryError.ranksDoNotFitGroups(ranks: ranks, groups: groups)
        }
        let local = CacheGeometry(
            uncheckedQueryHeads: queryHeads / ranks, groups: max(groups / ranks, 1), shared: shared, key: key,
            keyKept: keyKept, value: value)
        return ShardedGeometry(local: local, ranks: ranks, duplication: max(ranks / groups, 1))
    }

    /// Bytes that one token leaves in the cache of one layer, at `bytesPerElement` (2 for bf16) and without padding;
    /// ``CacheLayout/bytesPerToken(of:)`` counts what a page really takes.
    public func bytesPerToken(bytesPerElement: Double = 2) -> Double { Double(elementsPerToken) * bytesPerElement }
}
