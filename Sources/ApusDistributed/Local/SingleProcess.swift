import ApusSynchronization

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// The communicator of one process alone: every reduction is what is there already.
public final class SingleProcess: Communicator {
    private let counted = Locked(CommunicationTraffic())

    /// A communicator of one rank.
    public init() {}

    /// 0.
    public var rank: Int { 0 }
    /// 1.
    public var size: Int { 1 }
    /// Collectives called; nothing moves.
    public var traffic: CommunicationTraffic { counted.withLock { $0 } }

    /// Copies where source and target differ.
    public func run(_ collective: Collective) throws(CommunicationError) {
        try collective.validate(rank: 0, size: 1)
        counted.withLock { $0.add(collective) }
        switch collective {
        case .allGather(let from, let into), .reduceScatter(let from, let into, _):
            if from.address != into.address { memmove(into.address, from.address, from.byteCount) }
        default: break
        }
    }

    private struct Finished: PendingCollective {
        func wait() {}
    }

    /// As ``run(_:)``: it is over at once.
    public func start(_ collective: Collective) throws(CommunicationError) -> any PendingCollective {
        try run(collective)
        return Finished()
    }

    /// Another communicator of one rank.
    public func split(color: Int, key: Int) -> any Communicator { SingleProcess() }
}
