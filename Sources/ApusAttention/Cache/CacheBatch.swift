import CApusKernels

/// The sequences of one step: their page tables and how many new tokens each gets. Built once a step by
/// ``PagedCache/begin(_:)`` and read by every layer.
public final class CacheBatch: Sendable {
    /// New tokens of all sequences.
    public let tokens: Int
    /// Position of each new token in its sequence.
    public let positions: [Int32]
    /// Length of each sequence, the new tokens included.
    public let lengths: [Int]
    /// Sequence s has the rows `queryOffsets[s] ..< queryOffsets[s + 1]`.
    public let queryOffsets: [Int]

    let sequences: [CacheSequence]
    private let pageTable: [Int32]
    private let tableOffsets: [Int64]
    private let kernelLengths: [Int64]
    private let kernelOffsets: [Int64]

    convenience init(_ requests: [(sequence: CacheSequence, tokens: Int)]) {
        self.init(
            tables: requests.map { ($0.sequence.pages, $0.sequence.length, $0.tokens) },
            sequences: requests.map(\.sequence))
    }

    /// A step over page tables that its caller keeps: `length` tokens are in the cache, `tokens` come.
    ///
    /// Precondition: each table has pages of the cache for all of them, and no page that is written stands in two tables.
    package convenience init(tables: [(pages: [Int32], length: Int, tokens: Int)]) {
        self.init(tables: tables, sequences: [])
    }

    private init(tables: [(pages: [Int32], length: Int, tokens: Int)], sequences: [CacheSequence]) {
        self.sequences = sequences
        lengths = tables.map { $0.length + $0.tokens }
        var offsets = [0]
        var table: [Int32] = []
        var tableOffsets: [Int64] = []
        var positions: [Int32] = []
        for (pages, length, count) in tables {
            tableOffsets.append(Int64(table.count))
            table += pages
            positions += (length..<length + count).map(Int32.init)
            offsets.append(offsets[offsets.count - 1] + count)
        }
        queryOffsets = offsets
        tokens = offsets[offsets.count - 1]
        self.positions = positions
        self.tableOffsets = tableOffsets
        pageTable = table
        kernelLengths = lengths.map(Int64.init)
        kernelOffsets = offsets.map(Int64.init)
    }

    /// Some of another batch's sequences, whose rows follow each other.
    init(_ batch: CacheBatch, sequences range: Range<Int>) {
        let first = batch.queryOffsets[range.lowerBound]
        sequences = Array(batch.sequences[range])
        lengths = Array(batch.lengths[range])
        queryOffsets = batch.queryOffsets[range.lowerBound...range.upperBound].map { $0 - first }
        tokens = batch.queryOffsets[range.upperBound] - first
        positions = Array(batch.positions[first..<(first + tokens)])
        tableOffsets = Array(batch.tableOffsets[range])
        pageTable = batch.pageTable
        kernelLengths = lengths.map(Int64.init)
        kernelOffsets = queryOffsets.map(Int64.init)
    }

    /// One sequence of `length` tokens in `pages` and `queries` of its own, its last ones or, where attention is not causal,
    /// from anywhere.
    init(pages: [Int32], length: Int, queries: Int) {
        sequences = []
        lengths = [length]
        queryOffsets = [0, queries]
        tokens = queries
        positions = []
        tableOffsets = [0]
        pageTable = pages
        kernelLengths = [Int64(length)]
        kernelOffsets = [0, Int64(queries)]
    }

    /// The page that holds a token of sequence `index`.
    func page(ofSequence index: Int, token: Int, pageSize: Int) -> Int {
        Int(pageTable[Int(tableOffsets[index]) + token / pageSize])
    }

    /// Calls `body` with the batch as kernels read it.
    func withKernelBatch<R>(_ body: (UnsafePointer<apus_cache_batch>) -> R) -> R {
        pageTable.withUnsafeBufferPointer { table in
            tableOffsets.withUnsafeBufferPointer { tableOffsets in
                kernelLengths.withUnsafeBufferPointer { lengths in
                    kernelOffsets.withUnsafeBufferPointer { offsets in
                        var batch = apus_cache_batch(
                            sequences: Int64(lengths.count), page_table: table.baseAddress,
                            table_offsets: tableOffsets.baseAddress, lengths: lengths.baseAddress,
                            query_offsets: offsets.baseAddress)
                        return body(&batch)
                    }
                }
            }
        }
    }
}
