import ApusDistributed
import ApusSynchronization
import ApusTensor

/// The ranks that a decoder is cut over, and what they exchange: one all-reduce after each half of a layer and one after the
/// embedding, and one gathering of the logits' parts.
///
/// The layers themselves cannot throw: what goes wrong in a collective is kept, later ones are left out, and ``check()``
/// throws it when the step is over.
public final class TensorParallel: Sendable {
    /// The ranks.
    public let communicator: any Communicator
    /// What each of them has.
    public let sharding: ModelSharding
    private let failure = Locked<CommunicationError?>(nil)
    /// The ranks that keep the same groups of the cache, where there are several.
    private let sameGroups = Locked<(any Communicator)?>(nil)

    /// A model cut over all ranks of a communicator.
    /// - Throws: ``GeometryError`` or ``ShardingError`` where it cannot be cut.
    public init(_ configuration: DecoderConfiguration, over communicator: any Communicator) throws {
        self.communicator = communicator
        sharding = try ModelSharding(configuration, rank: communicator.rank, ranks: communicator.size)
    }

    /// The tokens whose rows of embedding and head this rank keeps, and the most that any rank does.
    var ownTokens: Range<Int> { sharding.vocabulary(ofRank: communicator.rank) }
    var mostTokens: Int { sharding.widestVocabulary }

    /// The ranks that have something which `count` ranks have.
    func copies(_ count: Int) throws -> any Communicator {
        if count == communicator.size { return communicator }
        if let known = sameGroups.withLock({ $0 }) { return known }
        // All ranks come here together, when training asks for it first.
        let part = try communicator.split(
            color: communicator.rank / sharding.geometry.duplication, key: communicator.rank)
        sameGroups.withLock { $0 = part }
        return part
    }

    /// Leaves a residual stream that all ranks have on the first one alone, before they add their parts to it.
    func beginSum(_ x: Tensor) { if communicator.rank > 0 { x.fillWithZeros() } }

    /// Sums the ranks' parts, in place.
    func finishSum(_ x: Tensor) { reduce(x, .sum, over: communicator) }

    /// Reduces elements over ranks, in place: in memory of a GPU as one more of its kernels, for which nobody waits.
    func reduce(_ x: Tensor, _ reduction: Reduction, over ranks: any Communicator) {
        // Where there was no memory for it, the backend says so.
        if x.device != .cpu, x.storage.deviceMemory == nil { return }
        run(.allReduce(CommunicationBuffer(x), reduction), over: ranks)
    }

    /// The vectors of tokens, whose rows the ranks share among them: float32 [tokens, width].
    func embedding(_ tokens: [Int32], table: Tensor, backend: any Backend) -> Tensor {
        let own = sharding.vocabulary(ofRank: communicator.rank)
        let rows = tokens.map { own.contains(Int($0)) ? $0 - Int32(own.lowerBound) : 0 }
        let x = backend.embedding(rows, table: table)
        for (index, token) in tokens.enumerated() where !own.contains(Int(token)) {
            x.rows(index..<index + 1).fillWithZeros()
        }
        finishSum(x)
        return x
    }

    /// The ranks' parts of logits [rows, own vocabulary] side by side: [rows, vocabulary], the same bits on all ranks.
    func gatherLogits(_ part: Tensor, backend: any Backend) -> Tensor {
        let (rows, width) = (part.shape[0], sharding.widestVocabulary)
        // Every rank gives as much, so narrow parts are filled up.
        var own = part
        if part.shape[1] < width {
            own = Tensor(uninitialized: [rows, width])
            own.fillWithZeros()
            for row in 0..<rows {
                (own.pointer(as: Float.self) + row * width).update(
                    from: part.pointer(as: Float.self) + row * part.shape[1], count: part.shape[1])
            }
        }
        let ranks = communicator.size
        let all = Tensor(uninitialized: [ranks, rows, width])
        run(.allGather(from: CommunicationBuffer(own), into: CommunicationBuffer(all)))
        let vocabulary = sharding.whole.vocabularySize
        let logits = Tensor(uninitialized: [rows, vocabulary])
        backend.concurrently(rows) { [sharding] row in
            for rank in 0..<ranks {
                let range = sharding.vocabulary(ofRank: rank)
                (logits.pointer(as: Float.self) + row * vocabulary + range.lowerBound).update(
                    from: all.pointer(as: Float.self) + (rank * rows + row) * width, count: range.count)
            }
        }
        return logits
    }

    /// Throws what went wrong since the last time.
    package func check() throws {
        if let error = failure.withLock({ $0 }) { throw error }
    }

    func run(_ collective: Collective) { run(collective, over: communicator) }

    private func run(_ collective: Collective, over ranks: any Communicator) {
        guard failure.withLock({ $0 }) == nil else { return }
        do {
            if let stream = ranks.stream, collective.isOnDevice {
                try ranks.queue(collective, on: stream)
            } else {
                try ranks.onHost.run(collective)
            }
        } catch { failure.withLock { $0 = error } }
    }

    /// Bytes that a step moves, as ``CommunicationTraffic`` counts them: all-reduces of `tokens` rows of the hidden state after
    /// the embedding and after each half of a layer, and the gathering of `rows` rows of logits.
    public func bytes(tokens: Int, rows: Int) -> Int {
        let whole = sharding.whole
        let halves = whole.parallelResidual ? 1 : 2
        let sums = 1 + halves * whole.layerCount
        let isScore = if case .score = whole.head { true } else { false }
        return 4
            * (sums * tokens * whole.hiddenSize
                + (isScore ? 0 : rows * sharding.widestVocabulary * communicator.size))
    }
}
