import ApusTensor

/// Memory that a collective reads or writes: of the host for MPI, of a GPU for NCCL.
///
/// Unchecked Sendable: until the collective is over, nobody else writes to it, and where it is written nobody reads it.
public struct CommunicationBuffer: @unchecked Sendable {
    /// First byte.
    public let address: UnsafeMutableRawPointer
    /// Elements.
    public let count: Int
    /// What they are.
    public let type: DType
    private let owner: AnyObject?

    /// Memory by its address.
    /// - Parameter owner: kept until the collective is over.
    public init(address: UnsafeMutableRawPointer, count: Int, type: DType, owner: AnyObject? = nil) {
        self.address = address
        self.count = count
        self.type = type
        self.owner = owner
    }

    /// The elements of a tensor. Precondition: contiguous, not packed; on a GPU that there was memory for it.
    public init(_ tensor: Tensor) {
        precondition(
            tensor.isContiguous && !tensor.dtype.isPacked, "a collective over \(tensor.shape) of \(tensor.dtype)")
        let address: UnsafeMutableRawPointer
        if let memory = tensor.storage.deviceMemory {
            address = UnsafeMutableRawPointer(bitPattern: UInt(memory.address) + UInt(tensor.byteOffset))!
        } else {
            address = tensor.rawPointer
        }
        self.init(address: address, count: tensor.count, type: tensor.dtype, owner: tensor.storage)
    }

    /// The memory of a GPU that it lies in, where it is known.
    var deviceMemory: CUDABuffer? { owner as? CUDABuffer ?? (owner as? Storage)?.deviceMemory }

    /// Whether it lies in memory of a GPU that is known.
    package var isOnDevice: Bool { deviceMemory != nil }

    /// Size in bytes.
    public var byteCount: Int { count * type.bytesPerBlock }

    /// Some of the elements.
    public func elements(_ range: Range<Int>) -> CommunicationBuffer {
        precondition(range.lowerBound >= 0 && range.upperBound <= count, "elements \(range) of \(count)")
        return CommunicationBuffer(
            address: address + range.lowerBound * type.bytesPerBlock, count: range.count, type: type, owner: owner)
    }
}
