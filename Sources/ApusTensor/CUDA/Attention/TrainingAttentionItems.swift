/// The work of training attention over a packed batch, cut into tiles of 128 rows of a head, in the order in which blocks of
/// the GPU take them. Made once per batch for all layers.
public struct TrainingAttentionItems: Sendable, Equatable {
    /// A tile, laid out as `struct Item` of attention_items.cuh.
    public struct Item: Sendable, Equatable, BitwiseCopyable {
        /// Row at which the sequence begins.
        public var begin: Int32
        /// Rows of the sequence.
        public var length: Int32
        /// The tile's first row in the sequence.
        public var row: Int32
        /// Query head, or KV head where the tile is one of keys.
        public var head: Int32
        /// Place of the sequence's first row where every sequence begins at a multiple of 128.
        public var padded: Int32
        /// Tokens of the sequence before these (prefill over a cache).
        public var cached: Int32
        /// The sequence's row in the page table.
        public var sequence: Int32
        private var unused: Int32 = 0

        fileprivate init(
            _ begin: Int, _ length: Int, _ row: Int, _ head: Int, _ padded: Int, _ cached: Int, _ sequence: Int
        ) {
            self.begin = Int32(begin)
            self.length = Int32(length)
            self.row = Int32(row)
            self.head = Int32(head)
            self.padded = Int32(padded)
            self.cached = Int32(cached)
            self.sequence = Int32(sequence)
        }
    }

    /// Whose rows the tiles are of.
    public enum Rows: Sendable {
        /// Queries: a tile's cost is the keys that it sees.
        case queries
        /// Keys: a tile's cost is the queries that see it.
        case keys
    }

    /// The tiles.
    public let items: [Item]
    /// Rows of all sequences where each begins at a multiple of 128.
    public let paddedRows: Int

    /// Bytes of keys and values that tiles in a row keep in L2.
    private static let cacheShare = 24 << 20

    /// Tiles of `heads` heads; `bytesPerRow` are those of a row's keys and values in each.
    ///
    /// Heads and sequences whose keys and values fit together into a share of L2 come one group after the other, so that tiles
    /// that read the same rows find them there; within a group the longest come first. `cached`: tokens before each sequence's
    /// own, which all of them see (prefill over a cache).
    public init(
        _ parameters: SequenceAttention, heads: Int, of rows: Rows, bytesPerRow: Int, cached: [Int]? = nil
    ) {
        precondition(cached.map { $0.count == parameters.starts.count - 1 } ?? true, "cached tokens of each sequence")
        let tile = TrainingAttentionSettings.tileRows
        let window = parameters.window ?? .max / 2
        var (result, group): ([Item], [(cost: Int, item: Item)]) = ([], [])
        var (held, padded) = (0, 0)
        func finish() {
            // Stable, so that tiles of the same cost keep their order.
            let order = group.indices.sorted { (-group[$0].cost, $0) < (-group[$1].cost, $1) }
            result += order.map { group[$0].item }
            group = []
            held = 0
        }
        for (sequence, (begin, end)) in zip(parameters.starts, parameters.starts.dropFirst()).enumerated()
        where begin < end {
            let length = end - begin
            let before = cached?[sequence] ?? 0
            let bytes = (before + length) * bytesPerRow
            for head in 0..<heads {
                if !group.isEmpty && held + bytes > Self.cacheShare { finish() }
                held += bytes
                for row in stride(from: 0, to: length, by: tile) {
                    let last = min(row + tile, length)
                    let cost =
                        switch rows {
                        case .queries: before + last - max(0, before + row - window + 1)
                        case .keys: min(length, last - 1 + window) - row
                        }
                    group.append((cost, Item(begin, length, row, head, padded, before, sequence)))
                }
            }
            padded += (length + tile - 1) / tile * tile
        }
        finish()
        items = result
        paddedRows = padded
    }
}
