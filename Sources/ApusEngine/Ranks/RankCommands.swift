import ApusDistributed
import ApusTensor

/// How commands go from the first rank to the others: a broadcast of a fixed size, and a second where that does not suffice.
struct RankCommands: Sendable {
    let communicator: any Communicator

    /// Numbers of the first broadcast, their count included: the tables of a usual step fit.
    private static let size = 4096
    /// Seconds after which a first rank without work says that it is there.
    static let idleSeconds = 0.5

    /// The first rank: tells the others.
    func send(_ command: RankCommand) throws {
        let numbers = command.numbers
        let first = Tensor(uninitialized: [Self.size], dtype: .i32)
        first.withMutableElements(of: Int32.self) { elements in
            elements[0] = Int32(numbers.count)
            for (index, number) in numbers.prefix(Self.size - 1).enumerated() { elements[index + 1] = number }
        }
        try communicator.broadcast(first)
        guard numbers.count > Self.size - 1 else { return }
        try communicator.broadcast(Tensor(Array(numbers.dropFirst(Self.size - 1))))
    }

    /// Another rank: waits for the next.
    func receive() throws -> RankCommand {
        let first = Tensor(uninitialized: [Self.size], dtype: .i32)
        try communicator.broadcast(first)
        var numbers = first.withElements(of: Int32.self) { elements in
            Array(elements[1..<1 + min(Int(elements[0]), Self.size - 1)])
        }
        let missing = Int(first.pointer(as: Int32.self).pointee) - numbers.count
        if missing > 0 {
            let rest = Tensor(uninitialized: [missing], dtype: .i32)
            try communicator.broadcast(rest)
            numbers += rest.withElements(of: Int32.self) { Array($0) }
        }
        guard let command = RankCommand(numbers) else {
            throw EngineError.step("the first rank sent something that is no command")
        }
        return command
    }
}
