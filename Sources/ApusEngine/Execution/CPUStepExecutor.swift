import ApusAttention
import ApusModels
import ApusTensor

/// Steps on CPUs: in this process, or with the other ranks that a model is cut over.
final class CPUStepExecutor: StepExecutor {
    private var decoder: Decoder
    private let cache: PagedCache
    private let isBatchInvariant: Bool
    private var hidden = Tensor(uninitialized: [0, 0])
    /// Tells the other ranks of a cut model what to compute; nil where there are none, and on those ranks.
    private let commands: RankCommands?

    /// - Parameter leads: whether it tells the other ranks of a cut model; false for one that does what it is told.
    init(_ decoder: Decoder, _ configuration: EngineConfiguration, pages: Int, leads: Bool = true) throws {
        self.decoder = decoder
        isBatchInvariant = configuration.isBatchInvariant
        commands = leads ? decoder.tensorParallel.map { RankCommands(communicator: $0.communicator) } : nil
        cache = try decoder.makeCache(
            pages: pages, pageSize: configuration.pageSize, type: configuration.cacheType)
    }

    func copyPage(from: Int32, to: Int32) throws {
        try commands?.send(.copyPage(from: from, to: to))
        cache.copyPage(from, to: to)
    }

    func runLayers(_ tokens: [Int32], _ tables: [StepTable]) throws {
        try commands?.send(.layers(tokens: tokens, tables: tables))
        let batch = CacheBatch(tables: tables.map { ($0.pages, $0.length, $0.tokens) })
        hidden = try decoder.hiddenStates(
            tokens, batch: batch, cache: cache, latentReading: isBatchInvariant ? .absorbed : nil)
    }

    func normalizedStates(_ rows: Range<Int>) -> Tensor { decoder.normalized(hidden.rows(rows)) }

    func logits(rows: [Int]) throws -> Tensor {
        guard rows.allSatisfy({ $0 >= 0 && $0 < hidden.shape[0] }) else {
            throw EngineError.step("logits of rows \(rows), found a step of \(hidden.shape[0])")
        }
        try commands?.send(.logits(rows: rows.map { Int32($0) }))
        let isAll = rows.count == hidden.shape[0]
        let result = decoder.logits(ofHidden: isAll ? hidden : hidden.gatheringRows(rows))
        try decoder.tensorParallel?.check()
        return result
    }

    func likeliestTokens(rows: [Int]) -> [Int32]? { nil }

    func replaceWeights(by decoder: Decoder) { self.decoder = decoder }

    var idleSeconds: Double? { commands?.idleSeconds }

    func idle() { try? commands?.send(.idle) }

    // Where ranks are gone, the job ends by itself.
    func stop() { try? commands?.send(.stop) }
}
