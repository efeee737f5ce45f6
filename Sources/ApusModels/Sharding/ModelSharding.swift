import ApusAttention

/// One rank's share of a model under tensor parallelism.
///
/// Query heads, KV heads and latent heads are cut as ``CacheGeometry/sharded(over:)`` says, with the one RoPE key on every rank;
/// feed-forwards by their inner width, embedding and head by the vocabulary. So a rank has a smaller model of the same form,
/// ``local``, whose two halves of a layer give parts of a sum.
public struct ModelSharding: Sendable {
    /// The model.
    public let whole: DecoderConfiguration
    /// This rank's part of it, as a model.
    public let local: DecoderConfiguration
    /// This rank.
    public let rank: Int
    /// How many ranks there are.
    public let ranks: Int
    /// How the cache of a layer is cut.
    public let geometry: ShardedGeometry

    /// The share of a rank.
    /// - Throws: ``GeometryError`` where heads do not divide, ``ShardingError`` where a width does not.
    public init(_ whole: DecoderConfiguration, rank: Int, ranks: Int) throws {
        precondition((0..<ranks).contains(rank), "rank \(rank) of \(ranks)")
        geometry = try whole.geometry(layer: 0).sharded(over: ranks)
        self.whole = whole
        self.rank = rank
        self.ranks = ranks
        func part(_ name: String, _ width: Int) throws -> Int {
            guard width % ranks == 0 else { throw ShardingError.width(name, width, ranks: ranks) }
            return width / ranks
        }
        var local = whole
        local.queryHeads = geometry.local.queryHeads
        local.feedForwardWidth = try part("feed-forward width", whole.feedForwardWidth)
        if case .latent(var latent) = whole.attention {
            if latent.splitsQueryLatent, let rank = latent.queryRank {
                latent.queryRank = rank / latent.latentHeads * geometry.local.groups
            }
            latent.latentHeads = geometry.local.groups
            local.attention = .latent(latent)
            local.kvHeads = local.queryHeads
        } else {
            local.kvHeads = geometry.local.groups
        }
        if var experts = whole.experts {
            experts.width = try part("expert width", experts.width)
            experts.sharedWidth = try part("width of the shared experts", experts.sharedWidth)
            local.experts = experts
        }
        guard whole.vocabularySize >= ranks else {
            throw ShardingError.width("vocabulary size", whole.vocabularySize, ranks: ranks)
        }
        local.vocabularySize = Self.vocabulary(whole.vocabularySize, rank: rank, ranks: ranks).count
        self.local = local
    }

    /// The tokens whose rows of the embedding a rank keeps: all ranks as many, but for the last ones where they do not divide
    /// the vocabulary.
    public func vocabulary(ofRank rank: Int) -> Range<Int> {
        Self.vocabulary(whole.vocabularySize, rank: rank, ranks: ranks)
    }

    private static func vocabulary(_ size: Int, rank: Int, ranks: Int) -> Range<Int> {
        // Spread evenly, so that no rank is left without any.
        rank * size / ranks..<(rank + 1) * size / ranks
    }

    /// The most tokens that a rank keeps.
    var widestVocabulary: Int { (whole.vocabularySize + ranks - 1) / ranks }

    /// What this costs beside a cut without copies: one sentence, or nil where nothing is kept twice but the RoPE key.
    public var duplicationNote: String? {
        guard geometry.duplication > 1 else { return nil }
        let groups = geometry.local.groups * ranks / geometry.duplication
        return
            "\(groups) cache group\(groups == 1 ? "" : "s") over \(ranks) ranks: each is kept \(geometry.duplication) times"
    }
}

/// A width that ranks do not divide.
public enum ShardingError: Error, Equatable, CustomStringConvertible {
    /// Its name and size.
    case width(_ name: String, _ width: Int, ranks: Int)

    /// One sentence for people.
    public var description: String {
        switch self {
        case .width(let name, let width, let ranks):
            "tensor parallelism: expected a \(name) that \(ranks) ranks divide, found \(width)"
        }
    }
}
