import ApusAttention
import ApusModels
import ApusTensor

/// Steps on CPUs: in this process, or with the other ranks that a model is cut over.
final class CPUStepExecutor: StepExecutor {
    private var decoder: Decoder
    private let cache: PagedCache
    private let isBatchInvariant: Bool
    private var hidden = Tensor(uninitialized: [0, 0])
    /// Tells the other ranks of a cut model what to compute; nil where there are none.
    private let commands: RankCommands?

    init(_ decoder: Decoder, _ configuration: EngineConfiguration, pages: Int) throws {
        self.decoder = decoder
        isBatchInvariant = configuration.isBatchInvariant
        commands = decoder.tensorParallel.map { RankCommands(communicator: $0.communicator) }
        cache = try decoder.makeCache(
            pages: pages, pageSize: configuration.pageSize, type: configuration.cacheType)
    }

    func copyPage(from: Int32, to: Int32) throws {
        try commands?.send(.copyPage(from: from, to: to))
        cache.copyPage(from, to: to)
    }

    func runLayers(_ tokens: [Int32], _ tables: [StepTable]) throws {
        try commands?.send(
            .layers(
                tokens: tokens,
                tables: tables.map { RankCommand.Table(pages: $0.pages, start: $0.length, count: $0.tokens) },
                isAbsorbed: isBatchInvariant))
        hidden = try decoder.hiddenStates(
            tokens, batch: CacheBatch(tables: tables), cache: cache,
            latentReading: isBatchInvariant ? .absorbed : nil)
    }

    func normalizedStates(_ rows: Range<Int>) -> Tensor { decoder.normalized(hidden.rows(rows)) }

    func logits(rows: [Int]) throws -> Tensor {
        try commands?.send(.logits(rows: rows.map { Int32($0) }))
        let isAll = rows.count == hidden.shape[0]
        let result = decoder.logits(ofHidden: isAll ? hidden : hidden.gatheringRows(rows))
        try decoder.tensorParallel?.check()
        return result
    }

    func likeliestTokens(rows: [Int]) -> [Int32]? { nil }

    func replaceWeights(by decoder: Decoder) { self.decoder = decoder }

    var idleSeconds: Double? { commands == nil ? nil : RankCommands.idleSeconds }

    func idle() { try? commands?.send(.idle) }

    // Where ranks are gone, the job ends by itself.
    func stop() { try? commands?.send(.stop) }
}
