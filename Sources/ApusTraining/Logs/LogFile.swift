#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// A log that cannot be written or read.
public enum RunLogError: Error, Equatable, CustomStringConvertible {
    /// A call to the operating system failed; `code` is errno.
    case system(file: String, operation: String, code: Int32)
    /// A line is no JSON object; lines count from 1.
    case entry(file: String, line: Int)

    /// One sentence for people.
    public var description: String {
        switch self {
        case .system(let file, let operation, let code):
            "\(file): cannot \(operation): \(String(cString: strerror(code)))"
        case .entry(let file, let line): "\(file), line \(line): expected a JSON object, found something else"
        }
    }
}

/// A file that grows by whole entries: each goes to the system in one write, so that a killed process leaves at most
/// one torn entry, the last.
final class LogFile {
    let path: String
    private let descriptor: Int32

    /// Opens or creates the file, for appending.
    init(path: String) throws(RunLogError) {
        self.path = path
        descriptor = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0o666)
        guard descriptor >= 0 else { throw .system(file: path, operation: "open the log", code: errno) }
    }

    /// Opens the file to be read alone.
    init(reading path: String) throws(RunLogError) {
        self.path = path
        descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard descriptor >= 0 else { throw .system(file: path, operation: "open the log", code: errno) }
    }

    deinit { close(descriptor) }

    func append(_ bytes: [UInt8]) throws(RunLogError) {
        var sent = 0
        while sent < bytes.count {
            let count = bytes.withUnsafeBytes { write(descriptor, $0.baseAddress! + sent, bytes.count - sent) }
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { throw .system(file: path, operation: "write the log", code: errno) }
            sent += count
        }
    }

    /// Cuts the file to its first `count` bytes.
    func truncate(to count: Int) throws(RunLogError) {
        guard ftruncate(descriptor, off_t(count)) == 0 else {
            throw .system(file: path, operation: "shorten the log", code: errno)
        }
    }

    /// The whole file.
    func contents() throws(RunLogError) -> [UInt8] {
        var result: [UInt8] = []
        var failure: Int32 = 0
        while failure == 0 {
            let offset = result.count
            let block = [UInt8](unsafeUninitializedCapacity: 1 << 18) { memory, count in
                var read: Int
                repeat {
                    read = pread(descriptor, memory.baseAddress!, memory.count, off_t(offset))
                } while read < 0 && errno == EINTR
                if read < 0 { failure = errno }
                count = max(read, 0)
            }
            if block.isEmpty { break }
            result += block
        }
        guard failure == 0 else { throw .system(file: path, operation: "read the log", code: failure) }
        return result
    }
}
