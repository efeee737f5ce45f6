#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// A file written beside its final place and renamed into it only when complete: a reader sees the old file or the new
/// one, and a full disk leaves the old one. The temporary is removed when writing stops with an error.
public final class AtomicFile {
    /// The final path.
    public let path: String
    /// Bytes written so far.
    public private(set) var position = 0
    private let temporary: String
    private var descriptor: Int32
    private var buffer: [UInt8] = []
    private var isPublished = false

    private static let bufferSize = 1 << 20

    /// Creates the temporary beside `path`.
    public init(path: String) throws {
        self.path = path
        var handle: Int32 = -1
        var name = ""
        repeat {
            name = path + ".part-" + String(UInt32.random(in: 0...UInt32.max), radix: 16)
            handle = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o666)
        } while handle < 0 && errno == EEXIST
        guard handle >= 0 else {
            throw ModelFileError.system(file: path, operation: "create a file beside it", code: errno)
        }
        descriptor = handle
        temporary = name
    }

    deinit {
        if descriptor >= 0 { close(descriptor) }
        if !isPublished { unlink(temporary) }
    }

    /// Appends bytes.
    public func write(_ bytes: UnsafeRawBufferPointer) throws {
        position += bytes.count
        if buffer.count + bytes.count <= Self.bufferSize {
            buffer.append(contentsOf: bytes)
            return
        }
        try flush()
        try send(bytes)
    }

    /// Appends bytes.
    public func write(_ bytes: [UInt8]) throws {
        try bytes.withUnsafeBytes { try write($0) }
    }

    /// Appends zeros up to the next multiple of `alignment`.
    public func pad(to alignment: Int) throws {
        let rest = position % alignment
        if rest > 0 { try write([UInt8](repeating: 0, count: alignment - rest)) }
    }

    /// Writes everything through to the disk and closes the temporary; ``publish()`` must follow.
    public func finish() throws {
        try flush()
        guard fsync(descriptor) == 0 else { throw failure("write the file to the disk") }
        let closed = close(descriptor)
        descriptor = -1
        guard closed == 0 else { throw failure("close the file") }
    }

    /// Renames the temporary to ``path`` (finishing it first if that was not done).
    public func publish() throws {
        if descriptor >= 0 { try finish() }
        guard rename(temporary, path) == 0 else { throw failure("rename the finished file") }
        isPublished = true
        // The rename is durable only once the folder is; a folder that cannot be opened or synced (some network file
        // systems) still shows the new file, so that is no error.
        let slash = path.lastIndex(of: "/")
        let folder = slash.map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
        let handle = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        if handle >= 0 {
            fsync(handle)
            close(handle)
        }
    }

    private func flush() throws {
        try buffer.withUnsafeBytes { try send($0) }
        buffer.removeAll(keepingCapacity: true)
    }

    private func send(_ bytes: UnsafeRawBufferPointer) throws {
        var sent = 0
        while sent < bytes.count {
            #if canImport(Glibc)
            let count = Glibc.write(descriptor, bytes.baseAddress! + sent, bytes.count - sent)
            #else
            let count = Musl.write(descriptor, bytes.baseAddress! + sent, bytes.count - sent)
            #endif
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { throw failure("write the file") }
            sent += count
        }
    }

    private func failure(_ operation: String) -> ModelFileError {
        .system(file: path, operation: operation, code: errno)
    }
}
