#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// A run of bytes that tensors share, reference-counted: allocated here, lent by an owner (a mapped file), or in the memory
/// of a GPU, where the CPU does not reach them.
///
/// Allocations are 64-byte aligned and go through ``StoragePool``, so that the temporaries of a decode step cost no
/// system call. Unchecked Sendable: the base address never changes; who writes through a tensor must hold it alone
/// (the operations of ``Backend`` write only to tensors they have just made, or that are documented as in-place).
public final class Storage: @unchecked Sendable {
    /// Where the bytes lie.
    public let device: Device
    /// Size in bytes.
    public let byteCount: Int
    /// The memory of a GPU; nil in main memory, and where the GPU had none left (its backend then keeps the error).
    package let deviceMemory: CUDABuffer?
    private let host: UnsafeMutableRawPointer?
    private let owner: AnyObject?
    private let capacity: Int
    private let isFileMapping: Bool

    /// Uninitialised memory, 64-byte aligned. Precondition: `byteCount >= 0`. Stops the process when there is none;
    /// use ``allocate(byteCount:)`` where the size comes from outside.
    public init(byteCount: Int) {
        let (pointer, size) = StoragePool.shared.take(byteCount)
        guard let pointer else { fatalError("out of memory: \(byteCount) bytes") }
        host = pointer
        device = .cpu
        deviceMemory = nil
        capacity = size
        owner = nil
        isFileMapping = false
        self.byteCount = byteCount
    }

    /// Memory of a GPU.
    /// - Parameter memory: nil where there was none left: nothing reads or writes such storage.
    package init(_ memory: CUDABuffer?, byteCount: Int, device: Device) {
        host = nil
        self.device = device
        deviceMemory = memory
        capacity = 0
        owner = nil
        isFileMapping = false
        self.byteCount = byteCount
    }

    /// First byte. Precondition: in main memory.
    public var base: UnsafeMutableRawPointer {
        guard let host else {
            preconditionFailure(
                "the CPU reads or writes a tensor in the memory of \(device): expected one in main memory (toHost)")
        }
        return host
    }

    private init(base: UnsafeMutableRawPointer, byteCount: Int, capacity: Int, owner: AnyObject?) {
        host = base
        device = .cpu
        deviceMemory = nil
        self.byteCount = byteCount
        self.capacity = capacity
        self.owner = owner
        isFileMapping = false
    }

    /// Memory lent by `owner`, which is kept alive. The bytes may be read-only (a mapped file): nobody writes to lent
    /// storage.
    /// - Parameter isFileMapping: the bytes are a file's, mapped, so that the system can drop them and read them again.
    public init(lent base: UnsafeRawPointer, byteCount: Int, owner: AnyObject, isFileMapping: Bool = false) {
        host = UnsafeMutableRawPointer(mutating: base)
        device = .cpu
        deviceMemory = nil
        self.byteCount = byteCount
        self.owner = owner
        self.isFileMapping = isFileMapping
        capacity = 0
    }

    /// Gives the memory behind a part of a mapped file back to the system; reading it again reads the file. Of other
    /// storage nothing happens.
    func dropResidentPages(offset: Int, byteCount: Int) {
        guard isFileMapping else { return }
        let page = sysconf(Int32(_SC_PAGESIZE))
        let start = (Int(bitPattern: base) + offset + page - 1) / page * page
        let end = (Int(bitPattern: base) + offset + byteCount) / page * page
        guard end > start else { return }
        madvise(UnsafeMutableRawPointer(bitPattern: start), end - start, MADV_DONTNEED)
    }

    /// Uninitialised memory, or ``TensorError/outOfMemory(bytes:device:)``.
    public static func allocate(byteCount: Int) throws -> Storage {
        let (pointer, size) = StoragePool.shared.take(byteCount)
        guard let pointer else { throw TensorError.outOfMemory(bytes: byteCount, device: "cpu") }
        return Storage(base: pointer, byteCount: byteCount, capacity: size, owner: nil)
    }

    deinit {
        if let host, owner == nil { StoragePool.shared.give(host, capacity) }
    }
}
