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
    /// Ranks with the same color become a communicator, ordered by `key`. All ranks call it.
    func split(color: Int, key: Int) throws(CommunicationError) -> any Communicator
}

extension Communicator {
    /// This communicator: its buffers are memory of the host.
    public var onHost: any Communicator { self }

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
