import ApusAttention
import ApusModels
import ApusTensor

/// A rank that computes a cut model for the engine on the first rank.
public struct EngineFollower {
    private let decoder: Decoder
    private let cache: PagedCache
    private let commands: RankCommands

    /// A follower with the same model, cut for its rank, and the same configuration as the engine.
    /// - Throws: ``EngineError``; cache errors when memory cannot be had.
    public init(_ model: LanguageModel, _ configuration: EngineConfiguration) throws {
        guard let ranks = model.decoder.tensorParallel else {
            throw EngineError.unsupported("a model that is not cut over ranks has no followers")
        }
        guard let pages = try EngineSizes(model, configuration).pages else {
            throw EngineError.unsupported("followers of an engine on \(configuration.device)")
        }
        decoder = model.decoder
        cache = try decoder.makeCache(
            pages: pages, pageSize: configuration.pageSize, type: configuration.cacheType)
        commands = RankCommands(communicator: ranks.communicator)
    }

    /// Does what the first rank says, until its engine ends.
    /// - Throws: ``CommunicationError``, and what a step throws.
    public func run() throws {
        var hidden: Tensor?
        while true {
            switch try commands.receive() {
            case .layers(let tokens, let tables, let isAbsorbed):
                let batch = CacheBatch(tables: tables.map { ($0.pages, $0.start, $0.count) })
                hidden = try decoder.hiddenStates(
                    tokens, batch: batch, cache: cache, latentReading: isAbsorbed ? .absorbed : nil)
            case .logits(let rows):
                guard let hidden else { throw EngineError.step("logits before a step") }
                _ = decoder.logits(ofHidden: hidden.gatheringRows(rows.map(Int.init)))
                try decoder.tensorParallel?.check()
            case .copyPage(let from, let to): cache.copyPage(from, to: to)
            case .idle: continue
            case .stop: return
            }
        }
    }
}
