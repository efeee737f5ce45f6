import ApusTensor

/// A collective that runs in the background.
public protocol PendingCollective: Sendable {
    /// Waits for its end.
    /// - Throws: ``CommunicationError`` where it failed.
    func wait() throws(CommunicationError)
    /// Lets what the device computes from here on come after it: over memory of a GPU without waiting in this thread.
    /// - Returns: whether it is over; where it is not, ``wait()`` is still to be called.
    /// - Throws: ``CommunicationError`` where it failed.
    func follow() throws(CommunicationError) -> Bool
}

extension PendingCollective {
    /// Waits for its end.
    public func follow() throws(CommunicationError) -> Bool {
        try wait()
        return true
    }
}

/// Ranks that talk to each other: one process, MPI on CPUs, NCCL on GPUs.
///
/// All ranks call the same collectives in the same order. Foreground calls come after the background ones that were started
/// before them on the same communicator.
public protocol Communicator: AnyObject, Sendable {
    /// This process among the ranks, from 0.
    var rank: Int { get }
    /// How many ranks there are.
    var size: Int { get }
    /// The same ranks, for buffers in memory of the host.
    var onHost: any Communicator { get }
    /// What has been moved so far by this rank over this communicator.
    var traffic: CommunicationTraffic { get }
    /// Runs a collective to its end.
    func run(_ collective: Collective) throws(CommunicationError)
    /// Starts a collective that goes on while this thread computes, after what the device was given before. Its buffers belong
    /// to it until it is followed or waited for.
    func start(_ collective: Collective) throws(CommunicationError) -> any PendingCollective
    /// Queues a collective on a stream of this rank's GPU as if it were a kernel, which a graph may record. Nobody waits for it,
    /// and its buffers live as long as the work. All ranks queue the same, in the same order.
    /// - Throws: ``CommunicationError``, where ranks are not on GPUs.
    func queue(_ collective: Collective, on stream: CUDAStream) throws(CommunicationError)
    /// On GPUs the stream whose work collectives follow; nil on CPUs.
    var stream: CUDAStream? { get }
    /// Rank 0 tells all others something, which ``hear()`` it in the same order.
    func tell(_ numbers: [Int32]) throws(CommunicationError)
    /// What rank 0 tells next. Waits for it.
    func hear() throws(CommunicationError) -> [Int32]
    /// The seconds within which ``tell(_:)`` must follow itself, since others wait in a collective; nil for any.
    var tellingSeconds: Double? { get }
    /// Ranks with the same color become a communicator, ordered by `key`. All ranks call it.
    func split(color: Int, key: Int) throws(CommunicationError) -> any Communicator
}

extension Communicator {
    /// This communicator: its buffers are memory of the host.
    public var onHost: any Communicator { self }

    /// None: ranks on CPUs.
    public var stream: CUDAStream? { nil }

    /// See ``queue(_:on:)``.
    public func queue(_ collective: Collective, on stream: CUDAStream) throws(CommunicationError) {
        throw .invalid("\(collective.kind.rawValue) on a stream", expected: "ranks on GPUs", found: "others")
    }

    /// Half a second: others wait in a broadcast.
    public var tellingSeconds: Double? { 0.5 }

    /// A broadcast of a fixed size, and a second where that does not suffice.
    public func tell(_ numbers: [Int32]) throws(CommunicationError) {
        let first = Tensor(uninitialized: [Telling.size], dtype: .i32)
        first.withMutableElements(of: Int32.self) { elements in
            elements[0] = Int32(numbers.count)
            for (index, number) in numbers.prefix(Telling.size - 1).enumerated() { elements[index + 1] = number }
        }
        try broadcast(first)
        guard numbers.count > Telling.size - 1 else { return }
        try broadcast(Tensor(Array(numbers.dropFirst(Telling.size - 1))))
    }

    /// See ``tell(_:)``.
    public func hear() throws(CommunicationError) -> [Int32] {
        let first = Tensor(uninitialized: [Telling.size], dtype: .i32)
        try broadcast(first)
        var numbers = first.withElements(of: Int32.self) { elements in
            Array(elements[1..<1 + min(Int(elements[0]), Telling.size - 1)])
        }
        let missing = Int(first.pointer(as: Int32.self).pointee) - numbers.count
        if missing > 0 {
            let rest = Tensor(uninitialized: [missing], dtype: .i32)
            try broadcast(rest)
            numbers += rest.withElements(of: Int32.self) { Array($0) }
        }
        return numbers
    }

    /// Reduces a tensor over the ranks, in place.
    public func allReduce(_ tensor: Tensor, _ reduction: Reduction = .sum) throws(CommunicationError) {
        try run(.allReduce(CommunicationBuffer(tensor), reduction))
    }

    /// The tensors of all ranks behind each other: [size x first extent, ...].
    public func allGather(_ tensor: Tensor) throws(CommunicationError) -> Tensor {
        var shape = tensor.shape
        shape[0] *= size
        let result = Tensor(uninitialized: shape, dtype: tensor.dtype)
        try run(.allGather(from: CommunicationBuffer(tensor), into: CommunicationBuffer(result)))
        return result
    }

    /// This rank's share of the reduction of all ranks' tensors. Precondition: the ranks divide the first extent.
    public func reduceScatter(_ tensor: Tensor, _ reduction: Reduction = .sum) throws(CommunicationError) -> Tensor {
        var shape = tensor.shape
        precondition(shape[0] % size == 0, "\(shape) over \(size) ranks")
        shape[0] /= size
        let result = Tensor(uninitialized: shape, dtype: tensor.dtype)
        try run(
            .reduceScatter(from: CommunicationBuffer(tensor), into: CommunicationBuffer(result), reduction))
        return result
    }

    /// Makes a tensor that of the rank `root`.
    public func broadcast(_ tensor: Tensor, from root: Int = 0) throws(CommunicationError) {
        try run(.broadcast(CommunicationBuffer(tensor), root: root))
    }

    /// The bytes of the rank `root`, of any number, on all ranks.
    public func broadcast(bytes: [UInt8], from root: Int = 0) throws(CommunicationError) -> [UInt8] {
        let count = Tensor([Int32(clamping: bytes.count)])
        try broadcast(count, from: root)
        let length = Int(count.pointer(as: Int32.self).pointee)
        let buffer = Tensor(uninitialized: [length], dtype: .u8)
        if rank == root { buffer.withMutableElements(of: UInt8.self) { _ = $0.update(from: bytes) } }
        if length > 0 { try broadcast(buffer, from: root) }
        return buffer.withElements(of: UInt8.self) { Array($0) }
    }

    /// Waits until all ranks have come.
    public func barrier() throws(CommunicationError) { try run(.barrier) }
}

private enum Telling {
    /// Numbers of the first broadcast, their count included: the tables of a usual step on CPUs fit.
    static let size = 4096
}
