import ApusTensor

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Collectives on memory of the host over ranks that talk between GPUs: buffers go to the GPU and come back.
///
/// For checks and for the few values that are needed on the host anyway; what is large stays on the GPU.
public final class StagedCommunicator: Communicator {
    private let base: any Communicator
    private let stream: CUDAStream

    /// - Parameters:
    ///   - base: takes buffers in the memory of the stream's GPU.
    ///   - stream: the one on which `base` queues its collectives.
    public init(_ base: any Communicator, stream: CUDAStream) {
        self.base = base
        self.stream = stream
    }

    /// See ``Communicator``.
    public var rank: Int { base.rank }
    /// See ``Communicator``.
    public var size: Int { base.size }
    /// See ``Communicator``.
    public var traffic: CommunicationTraffic { base.traffic }

    /// See ``Communicator/run(_:)``.
    public func run(_ collective: Collective) throws(CommunicationError) { try start(collective).wait() }

    /// See ``Communicator/start(_:)``.
    public func start(_ collective: Collective) throws(CommunicationError) -> any PendingCollective {
        try collective.validate(rank: rank, size: size)
        do {
            switch collective {
            case .allReduce(let buffer, let reduction):
                let copy = try upload(buffer)
                return try pending(.allReduce(part(copy, buffer), reduction), [(copy, buffer)])
            case .allGather(let from, let into):
                let (source, target) = (try upload(from), try memory(into))
                return try pending(.allGather(from: part(source, from), into: part(target, into)), [(target, into)])
            case .reduceScatter(let from, let into, let reduction):
                let (source, target) = (try upload(from), try memory(into))
                return try pending(
                    .reduceScatter(from: part(source, from), into: part(target, into), reduction), [(target, into)])
            case .broadcast(let buffer, let root):
                let copy = try upload(buffer)
                return try pending(.broadcast(part(copy, buffer), root: root), [(copy, buffer)])
            case .send(let buffer, let other):
                return try pending(.send(part(try upload(buffer), buffer), to: other), [])
            case .receive(let buffer, let other):
                let target = try memory(buffer)
                return try pending(.receive(part(target, buffer), from: other), [(target, buffer)])
            case .barrier: return try base.start(.barrier)
            }
        } catch let error as CommunicationError {
            throw error
        } catch {
            throw .call(collective.kind.rawValue, reason: "\(error)")
        }
    }

    /// See ``Communicator/split(color:key:)``.
    public func split(color: Int, key: Int) throws(CommunicationError) -> any Communicator {
        StagedCommunicator(try base.split(color: color, key: key), stream: stream)
    }

    private func memory(_ buffer: CommunicationBuffer) throws -> CUDABuffer {
        try CUDABuffer(byteCount: max(buffer.byteCount, 1), stream: stream)
    }

    private func upload(_ buffer: CommunicationBuffer) throws -> CUDABuffer {
        try stream.upload(Array(UnsafeRawBufferPointer(start: buffer.address, count: buffer.byteCount)))
    }

    private func part(_ copy: CUDABuffer, _ buffer: CommunicationBuffer) -> CommunicationBuffer {
        CommunicationBuffer(copy, count: buffer.count, type: buffer.type)
    }

    private func pending(
        _ collective: Collective, _ results: [(from: CUDABuffer, into: CommunicationBuffer)]
    ) throws -> any PendingCollective {
        Pending(base: try base.start(collective), results: results, stream: stream)
    }

    private struct Pending: PendingCollective {
        let base: any PendingCollective
        let results: [(from: CUDABuffer, into: CommunicationBuffer)]
        let stream: CUDAStream

        func wait() throws(CommunicationError) {
            try base.wait()
            do {
                for (from, into) in results {
                    let bytes = try stream.download(from, count: into.byteCount, as: UInt8.self)
                    bytes.withUnsafeBytes { into.address.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
                }
            } catch {
                throw .call("copy of a result from the GPU", reason: "\(error)")
            }
        }
    }
}
