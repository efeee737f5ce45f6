#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// A run of bytes that tensors share, reference-counted: allocated here, or lent by an owner (a mapped file).
///
/// Allocations are 64-byte aligned and go through ``StoragePool``, so that the temporaries of a decode step cost no
/// system call. Unchecked Sendable: the base address never changes; who writes through a tensor must hold it alone
/// (the operations of ``Backend`` write only to tensors they have just made, or that are documented as in-place).
public final class Storage: @unchecked Sendable {
    /// First byte.
    public let base: UnsafeMutableRawPointer
    /// Size in bytes.
    public let byteCount: Int
    private let owner: AnyObject?
    private let capacity: Int
    private let isFileMapping: Bool

    /// Uninitialised memory, 64-byte aligned. Precondition: `byteCount >= 0`. Stops the process when there is none;
    /// use ``allocate(byteCount:)`` where the size comes from outside.
    public init(byteCount: Int) {
        let (pointer, size) = StoragePool.shared.take(byteCount)
        guard let pointer else { fatalError("out of memory: \(byteCount) bytes") }
        base = pointer
        capacity = size
        owner = nil
        isFileMapping = false
        self.byteCount = byteCount
    }

    private init(base: UnsafeMutableRawPointer, byteCount: Int, capacity: Int, owner: AnyObject?) {
        self.base = base
        self.byteCount = byteCount
        self.capacity = capacity
        self.owner = owner
        isFileMapping = false
    }

    /// Memory lent by `owner`, which is kept alive. The bytes may be read-only (a mapped file): nobody writes to lent
    /// storage.
    /// - Parameter isFileMapping: the bytes are a file's, mapped, so that the system can drop them and read them again.
    public init(lent base: UnsafeRawPointer, byteCount: Int, owner: AnyObject, isFileMapping: Bool = false) {
        self.base = UnsafeMutableRawPointer(mutating: base)
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
        if owner == nil { StoragePool.shared.give(base, capacity) }
    }
}
