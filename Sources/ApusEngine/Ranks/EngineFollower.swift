import ApusModels

/// A rank that computes a cut model for the engine on the first rank.
public struct EngineFollower {
    private let executor: any StepExecutor
    private let commands: RankCommands

    /// A follower with the same model, cut for its rank, and the same configuration as the engine.
    /// - Throws: ``EngineError``; cache errors when memory cannot be had.
    public init(_ model: LanguageModel, _ configuration: EngineConfiguration) throws {
        guard let ranks = model.tensorParallel else {
            throw EngineError.unsupported("a model that is not cut over ranks has no followers")
        }
        let sizes = try EngineSizes(model, configuration)
        executor = try Engine.executor(model, configuration, sizes, leads: false).0
        commands = RankCommands(communicator: ranks.communicator)
    }

    /// Does what the first rank says, until its engine ends.
    /// - Throws: ``CommunicationError``, and what a step throws.
    public func run() throws {
        while true {
            switch try commands.receive() {
            case .layers(let tokens, let tables): try executor.runLayers(tokens, tables)
            case .logits(let rows): _ = try executor.logits(rows: rows.map(Int.init))
            case .likeliest(let rows): _ = try executor.likeliestTokens(rows: rows.map(Int.init))
            case .copyPage(let from, let to): try executor.copyPage(from: from, to: to)
            case .idle: continue
            case .stop: return
            }
        }
    }
}
