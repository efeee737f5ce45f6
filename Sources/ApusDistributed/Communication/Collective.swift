import ApusTensor

/// How the ranks' elements become one.
public enum Reduction: String, Sendable, CaseIterable {
    /// Their sum; of bf16 elements in float32, rounded once.
    case sum
    /// The largest.
    case max
}

/// Something that all ranks of a communicator do together, or two of them.
public enum Collective: Sendable {
    /// The kinds, for counts and messages.
    public enum Kind: String, Sendable, CaseIterable {
        case allReduce = "all-reduce"
        case allGather = "all-gather"
        case reduceScatter = "reduce-scatter"
        case broadcast, send, receive, barrier
    }

    /// Every rank's buffer becomes the reduction of all.
    case allReduce(CommunicationBuffer, Reduction)
    /// `into` takes the buffers of all ranks, in the order of ranks: `size` times as many elements.
    case allGather(from: CommunicationBuffer, into: CommunicationBuffer)
    /// `into` takes this rank's share of the reduction of all `from`, which have `size` times as many elements.
    case reduceScatter(from: CommunicationBuffer, into: CommunicationBuffer, Reduction)
    /// Every rank's buffer becomes that of `root`.
    case broadcast(CommunicationBuffer, root: Int)
    /// Sends to one rank, which receives.
    case send(CommunicationBuffer, to: Int)
    /// Receives what one rank sends, of the same type and count.
    case receive(CommunicationBuffer, from: Int)
    /// Ends when all ranks have come.
    case barrier

    /// Which kind it is.
    public var kind: Kind {
        switch self {
        case .allReduce: .allReduce
        case .allGather: .allGather
        case .reduceScatter: .reduceScatter
        case .broadcast: .broadcast
        case .send: .send
        case .receive: .receive
        case .barrier: .barrier
        }
    }

    /// The memory that it reads or writes.
    var buffers: [CommunicationBuffer] {
        switch self {
        case .allReduce(let buffer, _), .broadcast(let buffer, _), .send(let buffer, _), .receive(let buffer, _):
            [buffer]
        case .allGather(let from, let into), .reduceScatter(let from, let into, _): [from, into]
        case .barrier: []
        }
    }

    /// Whether it is over memory of a GPU.
    package var isOnDevice: Bool { buffers.contains { $0.isOnDevice } }

    /// Bytes of the whole: what is reduced or broadcast, of gathering and scattering the buffer that holds all shares.
    public var byteCount: Int {
        switch self {
        case .allReduce(let buffer, _), .broadcast(let buffer, _), .send(let buffer, _), .receive(let buffer, _):
            buffer.byteCount
        case .allGather(_, let whole), .reduceScatter(let whole, _, _): whole.byteCount
        case .barrier: 0
        }
    }

    /// Checks sizes, types and ranks, which is what all communicators expect.
    /// - Throws: ``CommunicationError/invalid(_:expected:found:)``.
    func validate(rank: Int, size: Int) throws(CommunicationError) {
        func peer(_ other: Int, _ name: String) throws(CommunicationError) {
            guard (0..<size).contains(other) else {
                throw .invalid("\(kind.rawValue), \(name)", expected: "a rank below \(size)", found: "\(other)")
            }
        }
        func shares(_ part: CommunicationBuffer, _ whole: CommunicationBuffer) throws(CommunicationError) {
            guard part.type == whole.type, part.count * size == whole.count else {
                throw .invalid(
                    kind.rawValue, expected: "\(part.count * size) elements of \(part.type) for \(size) ranks",
                    found: "\(whole.count) of \(whole.type)")
            }
        }
        func reducible(_ type: DType) throws(CommunicationError) {
            guard [.f32, .f64, .bf16, .i32, .i64].contains(type) else {
                throw .invalid(kind.rawValue, expected: "f32, f64, bf16, i32 or i64", found: type.rawValue)
            }
        }
        switch self {
        case .allReduce(let buffer, _): try reducible(buffer.type)
        case .allGather(let from, let into): try shares(from, into)
        case .reduceScatter(let from, let into, _):
            try reducible(from.type)
            try shares(into, from)
        case .broadcast(_, let root): try peer(root, "root")
        case .send(_, let other), .receive(_, let other):
            try peer(other, "other rank")
            guard other != rank else {
                throw .invalid(kind.rawValue, expected: "another rank", found: "this one, \(rank)")
            }
        case .barrier: break
        }
    }
}
