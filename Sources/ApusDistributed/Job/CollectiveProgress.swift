import ApusSynchronization

/// How far this rank has come on one communicator: what others compare to see who is late.
final class CollectiveProgress: Sendable {
    /// One reading.
    struct Reading: Sendable, Equatable {
        /// Which communicator: the same number on all its ranks.
        var name: UInt64
        /// Collectives begun.
        var begun: Int
        /// Collectives over.
        var over: Int
        /// The kind of the last that was begun.
        var kind: Collective.Kind
        /// Seconds that the oldest which is not over has taken; nil where all are over.
        var waiting: Double?
    }

    private struct State {
        var begun = 0
        var over = 0
        var parts: UInt64 = 0
        var kind = Collective.Kind.barrier
        var since: ContinuousClock.Instant?
    }

    private let name: UInt64
    private let state = Locked(State())

    init(name: UInt64) { self.name = name }

    /// A collective begins.
    func begin(_ kind: Collective.Kind) {
        let now = ContinuousClock.now
        state.withLock {
            $0.begun += 1
            $0.kind = kind
            if $0.since == nil { $0.since = now }
        }
    }

    /// The oldest that is not over ends.
    func end() {
        let now = ContinuousClock.now
        state.withLock {
            $0.over += 1
            $0.since = $0.over < $0.begun ? now : nil
        }
    }

    /// A name for a part of the communicator, the same on the ranks of that part.
    func nameOfPart(color: Int) -> UInt64 {
        let number = state.withLock {
            $0.parts += 1
            return $0.parts
        }
        // FNV-1a over the three numbers.
        return [name, number, UInt64(bitPattern: Int64(color))].reduce(0xcbf2_9ce4_8422_2325) {
            ($0 ^ $1) &* 0x100_0000_01b3
        }
    }

    var reading: Reading {
        let now = ContinuousClock.now
        return state.withLock { state in
            Reading(
                name: name, begun: state.begun, over: state.over, kind: state.kind,
                waiting: state.since.map { ($0.duration(to: now)).inWholeSeconds })
        }
    }
}

extension Duration {
    var inWholeSeconds: Double { Double(components.seconds) + Double(components.attoseconds) * 1e-18 }
}
