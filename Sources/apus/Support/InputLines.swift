#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Standard input in lines of bytes. Output so far is flushed before each wait for more input, so that a program at the
/// other end of two pipes gets an answer for each line.
struct InputLines {
    private var buffer: [UInt8] = []
    private var start = 0
    private var isAtEnd = false

    private static let blockSize = 1 << 16

    /// The next line without its newline, or nil at the end.
    mutating func next() throws -> ArraySlice<UInt8>? {
        var searched = start
        while true {
            if let end = buffer[searched...].firstIndex(of: 0x0A) {
                defer { start = end + 1 }
                return buffer[start..<end]
            }
            searched = buffer.count
            if isAtEnd {
                guard start < buffer.count else { return nil }
                defer { start = buffer.count }
                return buffer[start...]
            }
            if start > 0 {
                buffer.removeSubrange(..<start)
                searched -= start
                start = 0
            }
            try read()
        }
    }

    /// Everything up to the end.
    mutating func rest() throws -> ArraySlice<UInt8> {
        while !isAtEnd { try read() }
        return buffer[start...]
    }

    private mutating func read() throws {
        fflush(nil)
        let size = max(Self.blockSize, buffer.count)
        let block = try [UInt8](unsafeUninitializedCapacity: size) { memory, count in
            repeat {
                count = systemRead(STDIN_FILENO, memory.baseAddress!, size)
            } while count < 0 && errno == EINTR
            guard count >= 0 else {
                count = 0
                throw InputError(reason: String(cString: strerror(errno)))
            }
        }
        buffer += block
        isAtEnd = block.isEmpty
    }
}

#if canImport(Glibc)
private let systemRead = Glibc.read
#else
private let systemRead = Musl.read
#endif

/// Something wrong with standard input.
struct InputError: Error, CustomStringConvertible {
    var line: Int?
    var reason: String

    var description: String { "standard input" + (line.map { ", line \($0)" } ?? "") + ": " + reason }
}
