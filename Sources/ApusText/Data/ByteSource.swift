import CApusCompression

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// A file's bytes as a stream, decompressed where the first bytes say that the file is compressed: its name plays no
/// part. Holds one block of the file at a time.
///
/// The one place of this folder that touches raw memory and the decompressors.
public final class ByteSource {
    /// How a file's bytes are stored.
    public enum Format: String, Sendable {
        /// As they are.
        case plain
        /// One or more gzip members (RFC 1952).
        case gzip
        /// One or more Zstandard frames (RFC 8878).
        case zstd
    }

    /// The file, for messages.
    public let path: String
    /// How its bytes are stored.
    public let format: Format
    /// The file's own size in bytes.
    public let fileByteCount: Int
    /// Bytes of the file itself that have been used up.
    public private(set) var fileOffset = 0

    private let descriptor: Int32
    private let decompressor: OpaquePointer?
    private var block: [UInt8]
    private var blockStart = 0
    private var isInsideMember = false
    private var isAtEnd = false

    private static let blockSize = 1 << 18

    /// Opens a regular file.
    /// - Throws: ``TextDataError``: `system`, `unsupportedFormat` for other compressed formats, or
    ///   `decompressorUnavailable`.
    public init(path: String) throws(TextDataError) {
        self.path = path
        // Without O_NONBLOCK, opening a named pipe would wait for a writer.
        let handle = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard handle >= 0 else { throw .system(file: path, operation: "open the file", code: errno) }
        var isReady = false
        defer { if !isReady { close(handle) } }
        var status = stat()
        guard fstat(handle, &status) == 0 else {
            throw .system(file: path, operation: "read the file's size", code: errno)
        }
        guard status.st_mode & S_IFMT == S_IFREG else {
            let code = status.st_mode & S_IFMT == S_IFDIR ? EISDIR : EINVAL
            throw .system(file: path, operation: "read anything but a regular file", code: code)
        }
        fileByteCount = Int(status.st_size)
        block = try Self.readBlock(handle, path)
        format = try Self.detect(block, path)
        switch format {
        case .plain: decompressor = nil
        case .gzip: decompressor = try Self.decompressor(APUS_COMPRESSION_GZIP, format, path)
        case .zstd: decompressor = try Self.decompressor(APUS_COMPRESSION_ZSTD, format, path)
        }
        isInsideMember = decompressor != nil
        descriptor = handle
        isReady = true
    }

    deinit {
        if let decompressor { apus_decompressor_destroy(decompressor) }
        close(descriptor)
    }

    /// Appends the next bytes of the text, a block at most.
    /// - Returns: whether there were any; false at the end.
    /// - Throws: ``TextDataError``: `system`, `truncated` or `corrupt`.
    public func append(to buffer: inout [UInt8]) throws(TextDataError) -> Bool {
        if decompressor == nil {
            if blockStart == block.count { try refill() }
            guard !isAtEnd else { return false }
            buffer += block[blockStart...]
            fileOffset += block.count - blockStart
            blockStart = block.count
            return true
        }
        while !isAtEnd {
            if blockStart == block.count { try refill() }
            let before = buffer.count
            try decompress(into: &buffer)
            if buffer.count > before { return true }
        }
        return false
    }

    private func refill() throws(TextDataError) {
        block = try Self.readBlock(descriptor, path)
        blockStart = 0
        if block.isEmpty { isAtEnd = true }
    }

    private func decompress(into buffer: inout [UInt8]) throws(TextDataError) {
        if isAtEnd {
            guard isInsideMember else { return }
            throw .truncated(file: path, format: format.rawValue, offset: fileOffset)
        }
        if !isInsideMember {
            // Tape blocks are filled up with zeros, which gzip itself passes over.
            while blockStart < block.count, block[blockStart] == 0, format == .gzip {
                blockStart += 1
                fileOffset += 1
            }
            guard blockStart < block.count else { return }
            isInsideMember = true
        }
        var consumed = 0
        var status = APUS_DECOMPRESSION_MORE
        var message: UnsafePointer<CChar>?
        let output = block.withUnsafeBytes { input in
            [UInt8](unsafeUninitializedCapacity: Self.blockSize) { memory, count in
                status = apus_decompressor_run(
                    decompressor, input.baseAddress! + blockStart, input.count - blockStart, &consumed,
                    memory.baseAddress!, memory.count, &count, &message)
            }
        }
        blockStart += consumed
        fileOffset += consumed
        if status == APUS_DECOMPRESSION_ERROR {
            let reason = message.map { String(cString: $0) } ?? "no reason given"
            throw .corrupt(file: path, format: format.rawValue, offset: fileOffset, reason: reason)
        }
        if status == APUS_DECOMPRESSION_END { isInsideMember = false }
        buffer += output
    }

    private static func readBlock(_ descriptor: Int32, _ path: String) throws(TextDataError) -> [UInt8] {
        var failure: Int32 = 0
        let block = [UInt8](unsafeUninitializedCapacity: blockSize) { memory, count in
            var result: Int
            repeat {
                result = read(descriptor, memory.baseAddress!, blockSize)
            } while result < 0 && errno == EINTR
            if result < 0 { failure = errno }
            count = max(result, 0)
        }
        guard failure == 0 else { throw .system(file: path, operation: "read the file", code: failure) }
        return block
    }

    private static func decompressor(
        _ format: apus_compression_format, _ name: Format, _ path: String
    ) throws(TextDataError) -> OpaquePointer {
        var message: UnsafePointer<CChar>?
        guard let result = apus_decompressor_create(format, &message) else {
            let reason = message.map { String(cString: $0) } ?? "no reason given"
            throw .decompressorUnavailable(file: path, format: name.rawValue, reason: reason)
        }
        return result
    }

    private static func detect(_ start: [UInt8], _ path: String) throws(TextDataError) -> Format {
        if start.starts(with: [0x1F, 0x8B]) { return .gzip }
        // A frame, or a skippable frame (0x184D2A50 to 0x184D2A5F), which parallel encoders put first.
        if start.starts(with: [0x28, 0xB5, 0x2F, 0xFD]) { return .zstd }
        if start.count >= 4, start[0] & 0xF0 == 0x50, start[1...3].elementsEqual([0x2A, 0x4D, 0x18]) { return .zstd }
        for (magic, name) in others where start.starts(with: magic) {
            throw .unsupportedFormat(file: path, found: name)
        }
        return .plain
    }

    /// Formats that a corpus may come in and that are not text.
    private static let others: [(magic: [UInt8], name: String)] = [
        (Array("BZh91AY".utf8), "bzip2 data"),
        ([0xFD, 0x37, 0x7A, 0x58, 0x5A, 0x00], "xz data"), ([0x04, 0x22, 0x4D, 0x18], "lz4 data"),
        (Array("PK".utf8) + [0x03, 0x04], "a zip archive"), (Array("PAR1".utf8), "a Parquet file"),
        (Array("ARROW1".utf8), "an Arrow file"), (Array("%PDF-".utf8), "a PDF document"),
        ([0xFF, 0xFE], "UTF-16 text"), ([0xFE, 0xFF], "UTF-16 text"),
    ]
}
