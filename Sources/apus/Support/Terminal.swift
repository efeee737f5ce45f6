#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// The process's standard streams, written without buffering so that text appears as it is made.
enum Terminal {
    /// Whether standard error is a terminal (progress is shown only there).
    static var errorIsTerminal: Bool { isatty(2) == 1 }

    /// Whether standard input is a terminal.
    static var inputIsTerminal: Bool { isatty(0) == 1 }

    /// Writes to standard output at once.
    /// - Throws: ``TerminalError`` when the stream is closed or full.
    static func out(_ text: String) throws { try write(text, to: 1) }

    /// Writes to standard error; failures there have nowhere to be told.
    static func error(_ text: String) { try? write(text, to: 2) }

    private static func write(_ text: String, to descriptor: Int32) throws {
        var bytes = Array(text.utf8)[...]
        while !bytes.isEmpty {
            let written = bytes.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress!, $0.count) }
            if written < 0 {
                if errno == EINTR { continue }
                throw TerminalError(descriptor: descriptor, reason: String(cString: strerror(errno)))
            }
            bytes = bytes.dropFirst(written)
        }
    }

    /// The next line of standard input without its newline, or nil at its end. A signal does not end the wait.
    static func readLine() -> String? {
        var line: [UInt8] = []
        var byte: UInt8 = 0
        while true {
            let count = read(0, &byte, 1)
            if count < 0 && errno == EINTR { continue }
            if count <= 0 { return line.isEmpty ? nil : String(decoding: line, as: UTF8.self) }
            if byte == UInt8(ascii: "\n") { return String(decoding: line, as: UTF8.self) }
            line.append(byte)
        }
    }

    /// Everything on standard input.
    static func readAll() -> [UInt8] {
        var result: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = read(0, &chunk, chunk.count)
            if count < 0 && errno == EINTR { continue }
            if count <= 0 { return result }
            result.append(contentsOf: chunk[..<count])
        }
    }
}

/// A standard stream could not be written.
struct TerminalError: Error, CustomStringConvertible {
    let descriptor: Int32
    let reason: String
    var description: String { "cannot write to \(descriptor == 1 ? "standard output" : "standard error"): \(reason)" }
}

/// Most memory the process has held, in bytes.
func peakMemory() -> Int {
    var usage = rusage()
    getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
    return usage.ru_maxrss * 1024
}
