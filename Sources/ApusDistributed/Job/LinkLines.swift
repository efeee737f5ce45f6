#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// The lines that come over a connection.
struct LinkLines {
    let socket: LinkSocket
    private var bytes: [UInt8] = []
    /// Whether the other side is gone; lines that came before may still be there.
    private(set) var hasEnded = false

    /// No line of ours is longer: what a rank is told of a step has some 100,000 numbers.
    private static let limit = 1 << 22

    init(_ socket: LinkSocket) { self.socket = socket }

    /// Reads what has come, without waiting.
    /// - Returns: the lines that are whole.
    mutating func read() -> [String] {
        while !hasEnded {
            guard let more = socket.received() else {
                hasEnded = true
                break
            }
            if more.isEmpty { break }
            bytes += more
            if bytes.count > Self.limit { hasEnded = true }
        }
        var lines: [String] = []
        while let end = bytes.firstIndex(of: UInt8(ascii: "\n")) {
            lines.append(String(decoding: bytes[..<end], as: UTF8.self))
            bytes.removeSubrange(...end)
        }
        return lines
    }

    /// Waits for the next line; meant for the first of a connection, with nothing behind it.
    mutating func first(within seconds: Double) -> String? {
        let end = ContinuousClock.now + .seconds(seconds)
        while !hasEnded, ContinuousClock.now < end {
            if let line = read().first { return line }
            LinkPoll.wait([socket.descriptor], milliseconds: 50)
        }
        return nil
    }
}

/// Waiting for connections.
enum LinkPoll {
    /// Waits until one of the descriptors has something to read, or the time is over.
    static func wait(_ descriptors: [Int32], milliseconds: Int32) {
        var entries = descriptors.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
        _ = poll(&entries, nfds_t(entries.count), milliseconds)
    }
}

/// Numbers as text: of each its digits in base 32, the lowest first, all but the last with 32 added.
package enum LinkNumbers {
    package static func encoded(_ numbers: [Int32]) -> String {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(4 * numbers.count)
        for number in numbers {
            var rest = UInt32(bitPattern: number)
            while rest >= 32 {
                bytes.append(first + 32 + UInt8(rest % 32))
                rest /= 32
            }
            bytes.append(first + UInt8(rest))
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// Nil for what ``encoded(_:)`` does not write.
    package static func decoded(_ text: some StringProtocol) -> [Int32]? {
        var numbers: [Int32] = []
        var (value, shift): (UInt64, UInt64) = (0, 0)
        for byte in text.utf8 {
            guard byte >= first, byte < first + 64, shift < 35 else { return nil }
            value |= UInt64((byte - first) % 32) << shift
            guard byte < first + 32 else {
                shift += 5
                continue
            }
            numbers.append(Int32(truncatingIfNeeded: value))
            (value, shift) = (0, 0)
        }
        return shift == 0 ? numbers : nil
    }

    /// Of 64 characters that are printed and are no space.
    private static let first = UInt8(ascii: "?")
}

/// Text that must not break a line.
enum LinkText {
    static func encoded(_ text: String) -> String {
        text.utf8.map { (UInt16($0) + 256) }.map { String($0, radix: 16).dropFirst() }.joined()
    }

    static func decoded(_ text: some StringProtocol) -> String? {
        let digits = Array(text.utf8)
        guard digits.count % 2 == 0 else { return nil }
        var bytes: [UInt8] = []
        for index in stride(from: 0, to: digits.count, by: 2) {
            guard let byte = UInt8(String(decoding: digits[index...index + 1], as: UTF8.self), radix: 16) else {
                return nil
            }
            bytes.append(byte)
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}
