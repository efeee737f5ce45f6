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

    init(_ requests: [(sequence: CacheSequence, tokens: Int)]) {
        sequences = requests.map(\.sequence)
        lengths = requests.map { $0.sequence.length + $0.tokens }
        var offsets = [0]
        var table: [Int32] = []
        var tableOffsets: [Int64] = []
        var positions: [Int32] = []
        for (sequence, count) in requests {
            tableOffsets.append(Int64(table.count))
            table += sequence.pages
            positions += (sequence.length..<sequence.length + count).map(Int32.init)
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

    /// Calls `body` with the batch as kernels read it.
    func withKernelBatch<R>(_ body: (UnsafePointer<apus_cache_batch>) -> R) -> R {
        pageTable.withUnsafeBufferPointer { table in
            tableOffsets.withUnsafeBufferPointer { tableOffsets in
                kernelLengths.withUnsafeBufferPointer { lengths in
                    kernelOffsets.withUnsafeBufferPointer { offsets in
                        var batch = apus_cache_batch(
                            sequences: Int64(sequences.count), page_table: table.baseAddress,
                            table_offsets: tableOffsets.baseAddress, lengths: lengths.baseAddress,
                            query_offsets: offsets.baseAddress)
                        return body(&batch)
                    }
                }
            }
        }
    }
}
