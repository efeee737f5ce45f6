import ApusSynchronization
import ApusTensor

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Ranks that are threads of one process: for tests of what runs over ranks, on machines without MPI. The last rank to come
/// does the work of all; nothing runs in the background, and two ranks alone cannot send each other anything.
package final class ThreadedRanks: Communicator {
    package let rank: Int
    package let size: Int
    private let group: Group
    private let counted = Locked(CommunicationTraffic())

    /// What the ranks share.
    private final class Group: Sendable {
        struct State {
            var waiting: [Int: Collective] = [:]
            var colors: [Int: (color: Int, key: Int)] = [:]
            var parts: [Int: ThreadedRanks] = [:]
            var round = 0
        }

        let state = Monitor(State())
    }

    private init(rank: Int, size: Int, group: Group) {
        self.rank = rank
        self.size = size
        self.group = group
    }

    /// Runs `body` on `size` threads, each with its rank.
    /// - Returns: what each gave, by rank.
    /// - Throws: what the first rank that failed threw.
    package static func run<R: Sendable>(
        _ size: Int, _ body: @escaping @Sendable (any Communicator) throws -> R
    ) throws -> [R] {
        let group = Group()
        let results = Monitor([Int: Result<R, any Error>]())
        for rank in 0..<size {
            let communicator = ThreadedRanks(rank: rank, size: size, group: group)
            let started = SystemThread.start {
                let result = Result { try body(communicator) }
                results.withLock { $0[rank] = result }
                results.signalAll()
            }
            precondition(started, "no thread for rank \(rank)")
        }
        let all = results.wait { results in
            // A rank that failed leaves the others waiting for it for ever.
            let failed = results.values.contains { if case .failure = $0 { true } else { false } }
            return failed || results.count == size ? results : nil
        }
        return try all.sorted { $0.key < $1.key }.map { try $0.value.get() }
    }

    package var traffic: CommunicationTraffic { counted.withLock { $0 } }

    package func run(_ collective: Collective) throws(CommunicationError) {
        try collective.validate(rank: rank, size: size)
        guard ![.send, .receive].contains(collective.kind) else {
            throw .invalid("threads", expected: "a collective of all ranks", found: collective.kind.rawValue)
        }
        counted.withLock { $0.add(collective) }
        meet { state in
            state.waiting[rank] = collective
            return state.waiting.count == size
        } last: { state in
            perform(state.waiting)
            state.waiting = [:]
        }
    }

    private struct Finished: PendingCollective {
        func wait() {}
    }

    package func start(_ collective: Collective) throws(CommunicationError) -> any PendingCollective {
        try run(collective)
        return Finished()
    }

    package func split(color: Int, key: Int) -> any Communicator {
        meet { state in
            state.colors[rank] = (color, key)
            return state.colors.count == size
        } last: { state in
            for (_, members) in Dictionary(grouping: state.colors, by: \.value.color) {
                let part = Group()
                for (index, member) in members.sorted(by: { ($0.value.key, $0.key) < ($1.value.key, $1.key) })
                    .enumerated()
                {
                    state.parts[member.key] = ThreadedRanks(rank: index, size: members.count, group: part)
                }
            }
            state.colors = [:]
        }
        return group.state.withLock { $0.parts.removeValue(forKey: rank)! }
    }

    /// Waits until all ranks have come; the last one works for all.
    private func meet(_ arrive: (inout Group.State) -> Bool, last: (inout Group.State) -> Void) {
        let round: Int? = group.state.withLock { state in
            guard arrive(&state) else { return state.round }
            last(&state)
            state.round += 1
            return nil
        }
        group.state.signalAll()
        guard let round else { return }
        group.state.wait { $0.round > round ? () : nil }
    }

    private func perform(_ all: [Int: Collective]) {
        let ranks = all.sorted { $0.key < $1.key }.map(\.value)
        switch ranks[0] {
        case .allReduce(let first, let reduction):
            let buffers = ranks.compactMap { if case .allReduce(let buffer, _) = $0 { buffer } else { nil } }
            let result = reduced(buffers, reduction, first.count, first.type)
            for buffer in buffers { memcpy(buffer.address, result.rawPointer, buffer.byteCount) }
        case .allGather:
            let pairs = ranks.compactMap { if case .allGather(let from, let into) = $0 { (from, into) } else { nil } }
            for (_, into) in pairs {
                for (index, (from, _)) in pairs.enumerated() {
                    memmove(into.address + index * from.byteCount, from.address, from.byteCount)
                }
            }
        case .reduceScatter(_, _, let reduction):
            let pairs = ranks.compactMap {
                if case .reduceScatter(let from, let into, _) = $0 { (from, into) } else { nil }
            }
            let result = reduced(pairs.map(\.0), reduction, pairs[0].0.count, pairs[0].0.type)
            for (index, (_, into)) in pairs.enumerated() {
                memcpy(into.address, result.rawPointer + index * into.byteCount, into.byteCount)
            }
        case .broadcast(_, let root):
            let buffers = ranks.compactMap { if case .broadcast(let buffer, _) = $0 { buffer } else { nil } }
            for buffer in buffers where buffer.address != buffers[root].address {
                memcpy(buffer.address, buffers[root].address, buffer.byteCount)
            }
        case .barrier, .send, .receive: break
        }
    }

    private func reduced(
        _ buffers: [CommunicationBuffer], _ reduction: Reduction, _ count: Int, _ type: DType
    ) -> Tensor {
        let result = Tensor(uninitialized: [count], dtype: type)
        func reduce<T, S: Comparable>(_: T.Type, _ widen: (T) -> S, _ add: (S, S) -> S, _ narrow: (S) -> T) {
            let target = result.pointer(as: T.self)
            for index in 0..<count {
                let values = buffers.map { widen($0.address.assumingMemoryBound(to: T.self)[index]) }
                target[index] = narrow(
                    values.dropFirst().reduce(values[0]) { reduction == .sum ? add($0, $1) : max($0, $1) })
            }
        }
        switch type {
        case .f32: reduce(Float.self, { $0 }, +, { $0 })
        case .f64: reduce(Double.self, { $0 }, +, { $0 })
        case .i32: reduce(Int32.self, { $0 }, +, { $0 })
        case .i64: reduce(Int64.self, { $0 }, +, { $0 })
        default: reduce(UInt16.self, { Float(bfloat16: $0) }, +, { $0.roundedToBFloat16 })
        }
        return result
    }
}
