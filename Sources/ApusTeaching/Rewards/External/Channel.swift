#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// A stream socket with deadlines: the one place of this target that touches file descriptors.
final class Channel {
    private let descriptor: Int32
    private var received: [UInt8] = []

    /// Why a channel cannot be used any more.
    enum Failure: Error {
        case timeOut
        case closed
        case system(String)
    }

    private init(_ descriptor: Int32) { self.descriptor = descriptor }

    deinit { close(descriptor) }

    /// Both ends of a connection within this machine; `other` is to be handed to a child and closed.
    static func pair() throws(Failure) -> (channel: Channel, other: Int32) {
        var ends: [Int32] = [0, 0]
        guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, &ends) == 0 else {
            throw .system(Self.reason(errno))
        }
        return (Channel(ends[0]), ends[1])
    }

    /// Connects to a host; the first of its addresses that answers is taken.
    static func connect(host: String, port: String, by deadline: ContinuousClock.Instant) throws(Failure) -> Channel {
        var hints = addrinfo()
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        var found: UnsafeMutablePointer<addrinfo>?
        let code = getaddrinfo(host, port, &hints, &found)
        guard code == 0 else { throw .system("\(host): \(String(cString: gai_strerror(code)))") }
        defer { freeaddrinfo(found) }
        var failure = Failure.system("\(host) has no address")
        var next = found
        while let address = next?.pointee {
            next = address.ai_next
            let handle = socket(
                address.ai_family,
                Int32(SOCK_STREAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
            guard handle >= 0 else { throw .system(Self.reason(errno)) }
            let channel = Channel(handle)
            if Glibc.connect(handle, address.ai_addr, address.ai_addrlen) == 0 { return channel }
            guard errno == EINPROGRESS else {
                failure = .system(Self.reason(errno))
                continue
            }
            try channel.wait(for: Int16(POLLOUT), by: deadline)
            var error: Int32 = 0
            var size = socklen_t(MemoryLayout<Int32>.size)
            getsockopt(handle, SOL_SOCKET, SO_ERROR, &error, &size)
            if error == 0 { return channel }
            failure = .system(Self.reason(error))
        }
        throw failure
    }

    /// Sends all bytes.
    func write(_ bytes: [UInt8], by deadline: ContinuousClock.Instant) throws(Failure) {
        var sent = 0
        while sent < bytes.count {
            try wait(for: Int16(POLLOUT), by: deadline)
            let count = bytes.withUnsafeBytes {
                send(descriptor, $0.baseAddress! + sent, $0.count - sent, Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT))
            }
            if count > 0 {
                sent += count
            } else if errno == EPIPE || errno == ECONNRESET {
                throw .closed
            } else if errno != EAGAIN && errno != EINTR {
                throw .system(Self.reason(errno))
            }
        }
    }

    /// The bytes before the next newline.
    func line(by deadline: ContinuousClock.Instant) throws(Failure) -> [UInt8] {
        var searched = 0
        while true {
            if let end = received[searched...].firstIndex(of: UInt8(ascii: "\n")) {
                defer { received.removeSubrange(...end) }
                return Array(received[..<end])
            }
            searched = received.count
            guard try receive(by: deadline) else { throw .closed }
        }
    }

    /// All bytes until the other side closes.
    func rest(by deadline: ContinuousClock.Instant, atMost limit: Int) throws(Failure) -> [UInt8] {
        while try receive(by: deadline) {
            guard received.count <= limit else { throw .system("more than \(limit) bytes came") }
        }
        defer { received = [] }
        return received
    }

    /// Waits for bytes.
    /// - Returns: false at the end of the stream.
    private func receive(by deadline: ContinuousClock.Instant) throws(Failure) -> Bool {
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            try wait(for: Int16(POLLIN), by: deadline)
            let count = buffer.withUnsafeMutableBytes {
                recv(descriptor, $0.baseAddress, $0.count, Int32(MSG_DONTWAIT))
            }
            if count > 0 {
                received += buffer[..<count]
                return true
            }
            if count == 0 || errno == ECONNRESET { return false }
            if errno != EAGAIN && errno != EINTR { throw .system(Self.reason(errno)) }
        }
    }

    private func wait(for events: Int16, by deadline: ContinuousClock.Instant) throws(Failure) {
        var entry = pollfd(fd: descriptor, events: events, revents: 0)
        while true {
            let left = (deadline - .now).inSeconds
            guard left > 0 else { throw .timeOut }
            // Rounded up: waking before the time would only mean to ask again.
            let count = poll(&entry, 1, Int32(min((left * 1000).rounded(.up), 60_000)))
            if count > 0 { return }
            if count < 0 && errno != EINTR { throw .system(Self.reason(errno)) }
        }
    }

    private static func reason(_ code: Int32) -> String { String(cString: strerror(code)) }
}
