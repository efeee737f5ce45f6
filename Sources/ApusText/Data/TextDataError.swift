#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// What can be wrong with a file of text that a model is to learn from. Offsets count bytes of the text, after
/// decompression, unless said otherwise.
public enum TextDataError: Error, Equatable, CustomStringConvertible {
    /// A call to the operating system failed; `code` is errno.
    case system(file: String, operation: String, code: Int32)
    /// The file is compressed, and the library that could read it is missing.
    case decompressorUnavailable(file: String, format: String, reason: String)
    /// The first bytes are those of a format that is not read.
    case unsupportedFormat(file: String, found: String)
    /// A compressed file ends before its stream does; `offset` counts bytes of the file itself.
    case truncated(file: String, format: String, offset: Int)
    /// A compressed file is damaged; `offset` counts bytes of the file itself.
    case corrupt(file: String, format: String, offset: Int, reason: String)
    /// The file holds no text.
    case empty(file: String)
    /// A byte that UTF-8 does not allow there.
    case invalidUTF8(file: String, offset: Int, byte: UInt8)
    /// A zero byte, which text never holds.
    case binary(file: String, offset: Int)
    /// A line of a JSON Lines file is not as it should be; lines count from 1.
    case row(file: String, line: Int, expected: String, found: String)

    /// One sentence for people.
    public var description: String {
        switch self {
        case .system(let file, let operation, let code):
            "\(file): cannot \(operation): \(String(cString: strerror(code)))"
        case .decompressorUnavailable(let file, let format, let reason):
            "\(file): compressed with \(format), which cannot be read: \(reason)"
        case .unsupportedFormat(let file, let found):
            "\(file): expected text, plain or compressed with gzip or zstd, found \(found)"
        case .truncated(let file, let format, let offset):
            "\(file): expected the rest of a \(format) stream after byte \(offset) of the file, found its end"
        case .corrupt(let file, let format, let offset, let reason):
            "\(file): expected a \(format) stream near byte \(offset) of the file, found damage: \(reason)"
        case .empty(let file):
            "\(file): expected text, found none"
        case .invalidUTF8(let file, let offset, let byte):
            "\(file): expected UTF-8, found byte 0x\(String(byte, radix: 16, uppercase: true)) at byte \(offset) of the text"
        case .binary(let file, let offset):
            "\(file): expected text, found a zero byte (binary data) at byte \(offset) of the text"
        case .row(let file, let line, let expected, let found):
            "\(file), line \(line): expected \(expected), found \(found)"
        }
    }
}
