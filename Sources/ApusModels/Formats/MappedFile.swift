import ApusTensor
import ApusText

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// A file's bytes, memory-mapped read-only; the one place of this folder that touches raw memory.
///
/// Every read is checked against the size the file had when it was opened. A file that another process shortens
/// afterwards cannot be guarded against: the system stops the reader.
///
/// Unchecked Sendable: base and size never change, and nobody writes to the bytes.
public final class MappedFile: @unchecked Sendable {
    /// The path as given (or the name of an in-memory file), for messages.
    public let name: String
    /// Size in bytes.
    public let byteCount: Int
    private let base: UnsafeRawPointer
    private let isMapped: Bool

    /// Maps the regular file at `path`. Throws ``ModelFileError/system(file:operation:code:)`` with the system's reason.
    public init(path: String) throws {
        name = path
        // Without O_NONBLOCK, opening a named pipe would wait for a writer.
        let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard descriptor >= 0 else { throw ModelFileError.system(file: path, operation: "open the file", code: errno) }
        defer { close(descriptor) }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else {
            throw ModelFileError.system(file: path, operation: "read the file's size", code: errno)
        }
        guard status.st_mode & S_IFMT == S_IFREG else {
            let code = status.st_mode & S_IFMT == S_IFDIR ? EISDIR : EINVAL
            throw ModelFileError.system(file: path, operation: "map anything but a regular file", code: code)
        }
        byteCount = Int(status.st_size)
        isMapped = byteCount > 0
        guard byteCount > 0 else {
            base = UnsafeRawPointer(UnsafeMutableRawPointer.allocate(byteCount: 1, alignment: 64))
            return
        }
        let address = mmap(nil, byteCount, PROT_READ, MAP_PRIVATE, descriptor, 0)
        guard let address, address != MAP_FAILED else {
            throw ModelFileError.system(file: path, operation: "map the file", code: errno)
        }
        base = UnsafeRawPointer(address)
    }

    /// An in-memory copy of `bytes` that stands for a file called `name`: for tests, fuzzing and small parts.
    public init(copying bytes: some Collection<UInt8>, name: String) {
        self.name = name
        byteCount = bytes.count
        isMapped = false
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: max(bytes.count, 1), alignment: 64)
        memory.copyBytes(from: bytes)
        base = UnsafeRawPointer(memory.baseAddress!)
    }

    deinit {
        if isMapped {
            munmap(UnsafeMutableRawPointer(mutating: base), byteCount)
        } else {
            base.deallocate()
        }
    }

    /// Tells the system that the whole file will be read soon, so that it fetches ahead of the faults.
    public func prefetch() {
        if isMapped { madvise(UnsafeMutableRawPointer(mutating: base), byteCount, MADV_WILLNEED) }
    }

    /// Storage over all bytes, which keeps the file mapped. Nobody may write to it.
    var storage: Storage {
        Storage(lent: base, byteCount: byteCount, owner: self, isFileMapping: isMapped)
    }

    /// Whether `count` bytes from `offset` lie inside the file.
    func contains(_ offset: Int, _ count: Int) -> Bool {
        offset >= 0 && count >= 0 && offset <= byteCount && count <= byteCount - offset
    }

    /// The little-endian number at a byte offset, aligned or not; nil outside the file.
    package func number<T: FixedWidthInteger & BitwiseCopyable>(at offset: Int, as type: T.Type = T.self) -> T? {
        guard contains(offset, MemoryLayout<T>.size) else { return nil }
        return T(littleEndian: base.loadUnaligned(fromByteOffset: offset, as: T.self))
    }

    /// Calls `body` with the bytes of a range. Precondition: it lies inside the file.
    package func withBytes<R>(_ range: Range<Int>, _ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
        precondition(contains(range.lowerBound, range.count), "bytes \(range) of a file of \(byteCount)")
        defer { withExtendedLifetime(self) {} }
        return try body(UnsafeRawBufferPointer(start: base + range.lowerBound, count: range.count))
    }

    /// A copy of the bytes of a range. Precondition: it lies inside the file.
    package func bytes(_ range: Range<Int>) -> [UInt8] { withBytes(range) { Array($0) } }

    /// Whether the file opens with these ASCII characters.
    func starts(with text: StaticString) -> Bool {
        contains(0, text.utf8CodeUnitCount)
            && withBytes(0..<text.utf8CodeUnitCount) {
                $0.elementsEqual(UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
            }
    }

    /// Whether the file is JSON text rather than safetensors, whose header length can open with the same byte but is
    /// never as large as eight bytes of text are.
    var isJSONObject: Bool {
        let length = number(at: 0, as: UInt64.self) ?? .max
        return starts(with: "{") && length > UInt64(SafetensorsFile.maximumHeaderByteCount)
    }

    /// A range of bytes as text; nil when it is not valid UTF-8. Precondition: it lies inside the file.
    func text(_ range: Range<Int>) -> String? {
        withBytes(range) { String(validating: $0, as: UTF8.self) }
    }

    /// The whole file as JSON.
    package func json(duplicateKeys: JSONDuplicateKeys = .lastHolds) throws -> JSONNode {
        JSONNode(try withBytes(0..<byteCount) { try JSONValue(parsing: $0, duplicateKeys: duplicateKeys) }, name: name)
    }

    /// A row-major tensor over the bytes from `offset`: shared with the file, or copied when the elements are not
    /// aligned to their size. Precondition: the bytes lie inside the file.
    func tensor(at offset: Int, shape: Shape, dtype: DType, byteCount bytes: Int) throws -> Tensor {
        precondition(contains(offset, bytes))
        let alignment = dtype.isPacked ? 2 : dtype.bytesPerBlock
        if (Int(bitPattern: base) + offset) % alignment == 0 {
            return Tensor(storage: storage, byteOffset: offset, shape: shape, dtype: dtype)
        }
        let copy = try Storage.allocate(byteCount: bytes)
        copy.base.copyMemory(from: base + offset, byteCount: bytes)
        return Tensor(storage: copy, shape: shape, dtype: dtype)
    }
}
