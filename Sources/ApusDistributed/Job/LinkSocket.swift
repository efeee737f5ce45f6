import ApusSynchronization

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// A TCP connection of lines, or what listens for some.
///
/// Unchecked Sendable: the descriptor never changes, and the system's calls on it may come from any thread.
final class LinkSocket: @unchecked Sendable {
    let descriptor: Int32
    /// Held while a line goes out: several threads send, and long lines go in pieces.
    private let sending = Locked(())

    private init(_ descriptor: Int32) { self.descriptor = descriptor }

    deinit { close(descriptor) }

    /// Listens on a port (0: any) of the loopback interface, or of all.
    static func listening(port: Int, onLoopback: Bool) throws(CommunicationError) -> LinkSocket {
        let listener = try make()
        var on: Int32 = 1
        setsockopt(listener.descriptor, SOL_SOCKET, SO_REUSEADDR, &on, socklen_t(MemoryLayout<Int32>.size))
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = in_port_t(port).bigEndian
        address.sin_addr.s_addr = (onLoopback ? UInt32(0x7f00_0001) : 0).bigEndian
        guard withSocketAddress(&address, { bind(listener.descriptor, $0, $1) }) == 0,
            listen(listener.descriptor, 1024) == 0
        else {
            throw .link("rank 0 cannot listen on port \(port): \(reason())")
        }
        return listener
    }

    /// Connects to an IPv4 address or a host's name.
    /// - Returns: nil when nobody listens there (yet).
    static func connecting(to host: String, port: Int) -> LinkSocket? {
        var hints = addrinfo()
        hints.ai_family = AF_INET
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        var found: UnsafeMutablePointer<addrinfo>?
        guard getaddrinfo(host, "\(port)", &hints, &found) == 0, let first = found else { return nil }
        defer { freeaddrinfo(first) }
        guard let connection = try? make() else { return nil }
        // A host that does not answer must not hold up the search for one that does.
        var limit = timeval(tv_sec: 3, tv_usec: 0)
        let size = socklen_t(MemoryLayout<timeval>.size)
        setsockopt(connection.descriptor, SOL_SOCKET, SO_SNDTIMEO, &limit, size)
        guard connect(connection.descriptor, first.pointee.ai_addr, first.pointee.ai_addrlen) == 0 else { return nil }
        connection.sendAtOnce()
        return connection
    }

    /// The port it listens on.
    var port: Int {
        var address = sockaddr_in()
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let status = withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(descriptor, $0, &size) }
        }
        return status == 0 ? Int(UInt16(bigEndian: address.sin_port)) : 0
    }

    /// A connection that has come, or nil.
    func accepted() -> LinkSocket? {
        let connection = accept(descriptor, nil, nil)
        guard connection >= 0 else { return nil }
        let result = LinkSocket(connection)
        result.sendAtOnce()
        return result
    }

    /// Sends a line.
    /// - Returns: false when the other side is gone.
    @discardableResult
    func send(_ line: String) -> Bool {
        var bytes = Array((line + "\n").utf8)[...]
        return sending.withLock { _ in
            while !bytes.isEmpty {
                let sent = bytes.withUnsafeBytes {
                    sendBytes(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
                }
                if sent < 0, errno == EINTR { continue }
                guard sent > 0 else { return false }
                bytes = bytes.dropFirst(sent)
            }
            return true
        }
    }

    /// What has come, without waiting: empty when nothing has, nil when the other side is gone.
    func received() -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: 1 << 14)
        let count = recv(descriptor, &bytes, bytes.count, Int32(MSG_DONTWAIT))
        if count > 0 { return Array(bytes[..<count]) }
        return count < 0 && (errno == EAGAIN || errno == EINTR) ? [] : nil
    }

    private func sendAtOnce() {
        var on: Int32 = 1
        setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &on, socklen_t(MemoryLayout<Int32>.size))
    }

    private static func make() throws(CommunicationError) -> LinkSocket {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw .link("no socket: \(reason())") }
        return LinkSocket(descriptor)
    }

    private static func reason() -> String { String(cString: strerror(errno)) }

    private static func withSocketAddress(
        _ address: inout sockaddr_in, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32
    ) -> Int32 {
        withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                body($0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
    }
}

/// This machine among others.
enum LocalHost {
    /// Its name.
    static var name: String {
        var text = [CChar](repeating: 0, count: 256)
        guard gethostname(&text, text.count - 1) == 0 else { return "unknown" }
        return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// Its IPv4 addresses but for loopback's.
    static var addresses: [String] {
        var list: UnsafeMutablePointer<ifaddrs>?
        guard getifaddrs(&list) == 0 else { return [] }
        defer { freeifaddrs(list) }
        var result: [String] = []
        var entry = list
        while let interface = entry?.pointee {
            defer { entry = interface.ifa_next }
            guard let address = interface.ifa_addr, address.pointee.sa_family == AF_INET,
                interface.ifa_flags & UInt32(IFF_LOOPBACK) == 0
            else { continue }
            var text = [CChar](repeating: 0, count: Int(NI_MAXHOST))
            let size = socklen_t(MemoryLayout<sockaddr_in>.size)
            if getnameinfo(address, size, &text, socklen_t(text.count), nil, 0, NI_NUMERICHOST) == 0 {
                result.append(
                    String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self))
            }
        }
        return result
    }
}

private func sendBytes(_ descriptor: Int32, _ bytes: UnsafeRawPointer?, _ count: Int, _ flags: Int32) -> Int {
    send(descriptor, bytes, count, flags)
}
