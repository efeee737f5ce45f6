import ApusDistributed
import ApusSynchronization
import ApusTensor

/// The ranks that a decoder is cut over, a GPU each, and what they exchange: one all-reduce after each half of a layer, and the
/// best token of each rank's part of the vocabulary.
///
/// Everything is queued on the decoder's stream, so that graphs record it. A rank's part of a sum is rounded to bf16; the
/// residual stream, to which the sum is added, stays in float32 and is the same on all ranks to the last bit, and so are the
/// tokens that they choose. Steps sum by ``GPUPeerSums`` where that can be, prompts and all else by NCCL. Embeddings are not
/// cut.
final class GPUDecoderRanks: Sendable {
    /// The ranks, and what each of them has.
    let ranks: TensorParallel
    /// This rank's part of a sum, bf16 `[row][width]`; then the sum.
    let part: CUDABuffer
    /// Sums of steps without NCCL; nil where ranks do not reach each other's memory.
    let peers: GPUPeerSums?
    private let width: Int, vocabulary: Int
    private let rows: Int
    private let stream: CUDAStream
    private let kernels: GPUDecoderKernels
    /// What the ranks choose of their tokens, `[row]` and `[rank][row]`.
    private let choice: CUDABuffer, choices: CUDABuffer
    private let ownLogits = Locked<CUDABuffer?>(nil)
    private let allLogits = Locked<CUDABuffer?>(nil)

    /// A token and its value.
    private static let choiceBytes = 8

    /// - Parameters:
    ///   - rows: the most that are summed at a time.
    ///   - sequences: the most that tokens are chosen for.
    init(
        _ ranks: TensorParallel, _ shape: GPUDecoderShape, rows: Int, sequences: Int, kernels: GPUDecoderKernels,
        stream: CUDAStream
    ) throws {
        self.ranks = ranks
        self.rows = sequences
        self.stream = stream
        self.kernels = kernels
        (width, vocabulary) = (shape.width, shape.vocabulary)
        part = try CUDABuffer(byteCount: rows * shape.width * 2, stream: stream)
        peers = try GPUPeerSums.make(ranks.communicator, rows: sequences, width: shape.width, stream: stream)
        choice = try CUDABuffer(byteCount: sequences * Self.choiceBytes, stream: stream)
        choices = try CUDABuffer(byteCount: ranks.communicator.size * sequences * Self.choiceBytes, stream: stream)
    }

    private var communicator: any Communicator { ranks.communicator }

    /// Whether this rank adds what is added to a sum once.
    var isFirst: Bool { communicator.rank == 0 }

    /// Sums the parts of `rows` rows over the ranks.
    func sum(rows: Int) throws {
        try communicator.queue(
            .allReduce(CommunicationBuffer(part, count: rows * width, type: .bf16), .sum), on: stream)
    }

    /// Parts in which the sums of squares of a step's rows are kept.
    var squareParts: Int { GPUPeerSums.slices(width) }

    /// Where a step's part of the sum behind attention or behind a feed-forward goes.
    func part(of half: Half) -> UInt64 { peers?.part(half.rawValue) ?? part.address }

    /// The halves of a layer.
    enum Half: Int { case attention, feedForward }

    /// Sums a step's parts, adds the sum to the residual stream, and begins the next norm.
    func addSum(of half: Half, rows: Int, to memory: GPUDecoderMemory, nextNorm: CUDABuffer) throws {
        if let peers {
            return try peers.add(rows: rows, place: half.rawValue, to: memory, nextNorm: nextNorm, on: stream)
        }
        try sum(rows: rows)
        // Not before the sum is over, which no launch of ours tells.
        try kernels.addSums.launch(
            grid: CUDAExtent(squareParts, rows), block: 256, on: stream, .buffer(part), .buffer(memory.residual),
            .buffer(nextNorm), .buffer(memory.normed), .buffer(memory.squares), .value(Int32(width)))
    }

    /// Chooses tokens of what the blocks of this rank's part of the head and those of the others have found.
    func choose(rows: Int, candidates: Int, memory: GPUDecoderMemory, lengths: UInt64, stride: Int) throws {
        try kernels.chooseOfRank.launch(
            grid: CUDAExtent((rows + 7) / 8), block: 256, attributes: [.overlapsPredecessor], on: stream,
            .buffer(memory.best), .buffer(memory.bestIndex), .value(Int32(candidates)), .buffer(choice),
            .value(Int32(ranks.ownTokens.lowerBound)), .value(Int32(rows)))
        let count = rows * Self.choiceBytes
        try communicator.queue(
            .allGather(
                from: CommunicationBuffer(choice, count: count, type: .u8),
                into: CommunicationBuffer(choices, count: count * communicator.size, type: .u8)), on: stream)
        try kernels.chooseOfRanks.launch(
            grid: CUDAExtent((rows + 255) / 256), block: 256, on: stream, .buffer(choices),
            .value(Int32(communicator.size)), .value(memory.tokens), .value(lengths), .buffer(memory.history),
            .value(Int32(stride)), .value(Int32(rows)))
    }

    /// Where this rank's logits are kept, float32 `[row][own tokens]`; taken when they are first asked for.
    func logits() throws -> CUDABuffer { try taken(ownLogits, ranks: 1) }

    /// Puts the ranks' logits side by side: float32 `[row][vocabulary]`.
    func joinLogits(rows: Int, into logits: CUDABuffer) throws {
        let (own, all) = (try self.logits(), try taken(allLogits, ranks: communicator.size))
        // Every rank gives as much.
        let count = rows * ranks.mostTokens
        try communicator.queue(
            .allGather(
                from: CommunicationBuffer(own, count: count, type: .f32),
                into: CommunicationBuffer(all, count: count * communicator.size, type: .f32)), on: stream)
        try kernels.joinLogits.launch(
            grid: CUDAExtent(min(64, (ranks.mostTokens + 255) / 256), rows, communicator.size), block: 256, on: stream,
            .buffer(all), .buffer(logits), .value(Int64(count)), .value(Int32(communicator.size)), .value(Int32(rows)),
            .value(Int32(vocabulary)))
    }

    /// The least of the ranks' numbers. Waits for them.
    func least(_ value: Int) throws -> Int {
        let most = Tensor([-Int32(clamping: value)])
        try communicator.onHost.allReduce(most, .max)
        return Int(-most.pointer(as: Int32.self).pointee)
    }

    private func taken(_ place: Locked<CUDABuffer?>, ranks count: Int) throws -> CUDABuffer {
        try place.withLock { kept in
            if let kept { return kept }
            let made = try CUDABuffer(byteCount: count * rows * ranks.mostTokens * 4, stream: stream)
            kept = made
            return made
        }
    }
}
