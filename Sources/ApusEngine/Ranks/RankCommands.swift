import ApusDistributed

/// How commands go from the first rank to the others.
struct RankCommands: Sendable {
    let communicator: any Communicator

    /// Seconds after which a first rank without work says that it is there; nil where nobody asks.
    var idleSeconds: Double? { communicator.tellingSeconds }

    /// The first rank: tells the others.
    func send(_ command: RankCommand) throws { try communicator.tell(command.numbers) }

    /// Another rank: waits for the next.
    func receive() throws -> RankCommand {
        guard let command = RankCommand(try communicator.hear()) else {
            throw EngineError.step("the first rank sent something that is no command")
        }
        return command
    }
}
