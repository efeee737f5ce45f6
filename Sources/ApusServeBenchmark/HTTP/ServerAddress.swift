#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Where a server listens, from `http://host:port/prefix`.
public struct ServerAddress: Sendable, Equatable {
    /// The host's name or number.
    public let host: String
    /// The port.
    public let port: UInt16
    /// What stands before the API's paths, without a slash at its end; "/v1" at the end of an address is left out.
    public let prefix: String

    /// Reads an address; the scheme may be missing.
    /// - Throws: ``ServeBenchmarkError/address(_:reason:)``; `https` is not spoken.
    public init(_ text: String) throws(ServeBenchmarkError) {
        var rest = text[...]
        if let scheme = text.range(of: "://") {
            let name = text[..<scheme.lowerBound]
            guard name == "http" else {
                throw .address(text, reason: "'\(name)' is not spoken here, only plain http")
            }
            rest = text[scheme.upperBound...]
        }
        let slash = rest.firstIndex(of: "/") ?? rest.endIndex
        var path = rest[slash...]
        while path.hasSuffix("/") { path = path.dropLast() }
        if path.hasSuffix("/v1") { path = path.dropLast(3) }
        prefix = String(path)
        var authority = rest[..<slash]
        var portText: Substring?
        if authority.hasPrefix("["), let end = authority.firstIndex(of: "]") {
            let after = authority[authority.index(after: end)...]
            if after.hasPrefix(":") { portText = after.dropFirst() }
            authority = authority[authority.index(after: authority.startIndex)..<end]
        } else if let colon = authority.lastIndex(of: ":") {
            portText = authority[authority.index(after: colon)...]
            authority = authority[..<colon]
        }
        guard !authority.isEmpty else { throw .address(text, reason: "it names no host") }
        guard let port = portText.map({ UInt16($0) }) ?? 80, port > 0 else {
            throw .address(text, reason: "the port is no number from 1 to 65535")
        }
        host = String(authority)
        self.port = port
    }

    /// The value of the Host header.
    var authority: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }

    /// The socket addresses of the host, at least one.
    func resolve() throws(ServeBenchmarkError) -> [SocketAddress] {
        var hints = addrinfo()
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        var first: UnsafeMutablePointer<addrinfo>?
        let code = getaddrinfo(host, String(port), &hints, &first)
        guard code == 0 else { throw .connection(address: authority, reason: String(cString: gai_strerror(code))) }
        defer { freeaddrinfo(first) }
        var result: [SocketAddress] = []
        var next = first
        while let info = next {
            let bytes = UnsafeRawBufferPointer(start: info.pointee.ai_addr, count: Int(info.pointee.ai_addrlen))
            result.append(SocketAddress(family: info.pointee.ai_family, bytes: Array(bytes)))
            next = info.pointee.ai_next
        }
        return result
    }
}

/// A socket address as the system has it.
struct SocketAddress {
    let family: Int32
    let bytes: [UInt8]
}

extension String {
    /// The first place of a text.
    fileprivate func range(of text: String) -> Range<Index>? {
        var start = startIndex
        while start < endIndex {
            if self[start...].hasPrefix(text) { return start..<index(start, offsetBy: text.count) }
            start = index(after: start)
        }
        return nil
    }
}
