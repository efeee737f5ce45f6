/// What one token leaves in the cache of one layer, and how a query head reads it.
///
/// The six attention variants differ at decode time in nothing else, so bytes, intensity, paging, sharding and kernels
/// are derived from this value. A query head of group g computes
///
///     score  = q_shared . shared[g] + q_key . key[g or all]
///     output = softmax(scale x score) x [shared[g] | value[g]]
///
/// so a query row is `[shared | key]` and an output row `[shared | value]`. Group g serves query heads
/// `g * headsPerGroup ..< (g + 1) * headsPerGroup`.
///
/// Source: "Hardware-Efficient Attention for Fast Decoding", Zadouri, Strauss, Dao 2025 (arXiv 2505.21487), section 3.
public struct CacheGeometry: Sendable, Hashable {
    /// Whether the key-only part is kept for each group, or once and read by all groups.
    public enum KeyKept: String, Sendable, Hashable, Codable {
        /// Each group has its own key (MHA, MQA, GQA).
        case perGroup
        /// One key for all groups: the decoupled RoPE key (GTA, MLA, GLA).
        case once
    }

    /// Query heads.
    public let queryHeads: Int
    /// Distinct cached states: KV heads or latent heads.
    public let groups: Int
    /// Width that is read both as key and as value, in elements of each group.
    public let shared: Int
    /// Width that is read as key only.
    public let key: Int
    /// How often the key-only part is kept.
    public let keyKept: KeyKept
    /// Width that is read as value only, in elements of each group.
    public let value: Int

    /// A geometry from its widths.
    ///
    /// Throws ``GeometryError`` when a count is not positive, a width is negative or all are zero on the key or the value
    /// side, or the groups do not divide the query heads.
    public init(queryHeads: Int, groups: Int, shared: Int, key: Int, keyKept: KeyKept, value: Int) throws {
        try GeometryError.require("query heads", queryHeads, atLeast: 1)
        try GeometryError.require("groups", groups, atLeast: 1)
        try GeometryError.require("shared width", shared, atLeast: 0)
        try GeometryError.require("key width", key, atLeast: 0)
        try GeometryError.require("value width", value, atLeast: 0)
        guard queryHeads % groups == 0 else {
            throw GeometryError.groupsDoNotDivideHeads(queryHeads: queryHeads, groups: groups)
        }
        try GeometryError.require("shared + key width", shared + key, atLeast: 1)
        try GeometryError.require("shared + value width", shared + value, atLeast: 1)
        self.init(
            uncheckedQueryHeads: queryHeads, groups: groups, shared: shared, key: key, keyKept: keyKept, value: value)
    }

    init(uncheckedQueryHeads queryHeads: Int, groups: Int, shared: Int, key: Int, keyKept: KeyKept, value: Int) {
        self.queryHeads = queryHeads
        self.groups = groups
        self.shared = shared
        self.key = key
        self.keyKept = keyKept
        self.value = value
    }

    /// Query heads that read one group: g_q in the paper.
    public var headsPerGroup: Int { queryHeads / groups }
    /// Width of a query row: shared, then key.
    public var queryWidth: Int { shared + key }
    /// Width of an output row: shared, then value.
    public var outputWidth: Int { shared + value }
    /// Elements that one token leaves in the cache of one layer.
    public var elementsPerToken: Int {
        groups * (shared + value) + (keyKept == .perGroup ? groups * key : key)
    }
    /// States a group keeps per width: 1 where key and value share one, 2 where they do not (m_kv in the paper).
    public var stateMultiplicity: Int { shared > 0 ? 1 : 2 }
}
