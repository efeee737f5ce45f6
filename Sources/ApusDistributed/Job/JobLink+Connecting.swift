#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Where rank 0 listens.
struct LinkPlace: Sendable, Equatable {
    /// Addresses to try, in order.
    var hosts: [String]
    var port: Int
    /// What keeps strangers out who find the port.
    var secret: String

    /// One line.
    var text: String { "\(secret) \(port) \(hosts.joined(separator: ","))" }

    init(hosts: [String], port: Int, secret: String) {
        self.hosts = hosts
        self.port = port
        self.secret = secret
    }

    /// Reads what ``text`` writes.
    init?(text: String) {
        let fields = text.split(separator: " ")
        guard fields.count == 3, let port = Int(fields[1]) else { return nil }
        self.init(hosts: fields[2].split(separator: ",").map(String.init), port: port, secret: String(fields[0]))
    }
}

extension JobLink {
    /// Rank 0: waits until all others have come.
    /// - Throws: ``CommunicationError/link(_:)`` naming the ranks that have not.
    static func hub(
        _ listener: LinkSocket, secret: String, size: Int, timeout: Double, watch: JobWatch
    ) throws(CommunicationError) -> JobLink {
        var peers: [Int: LinkPeer] = [:]
        let end = ContinuousClock.now + .seconds(timeout)
        while peers.count < size - 1 {
            guard ContinuousClock.now < end else {
                let missing = (1..<size).filter { peers[$0] == nil }
                throw .link(
                    "ranks \(missing.map(String.init).joined(separator: ", ")) did not come within \(timeout) s")
            }
            LinkPoll.wait([listener.descriptor], milliseconds: 100)
            var entry = pollfd(fd: listener.descriptor, events: Int16(POLLIN), revents: 0)
            guard poll(&entry, 1, 0) == 1, let socket = listener.accepted() else { continue }
            var lines = LinkLines(socket)
            let fields = lines.first(within: 2)?.split(separator: " ") ?? []
            guard fields.count == 5, fields[0] == "hello", fields[1] == secret, let rank = Int(fields[2]),
                (1..<size).contains(rank), peers[rank] == nil,
                let peer = LinkPeer(rank: rank, process: fields[3], host: fields[4], socket: socket)
            else { continue }
            socket.send("welcome \(getpid()) \(LocalHost.name)")
            peers[rank] = peer
        }
        return try JobLink(rank: 0, size: size, peers: Array(peers.values), timeout: timeout, watch: watch)
    }

    /// Another rank: connects to rank 0, which may not listen yet.
    /// - Throws: ``CommunicationError/link(_:)`` when it cannot be reached in time.
    static func spoke(
        _ place: LinkPlace, rank: Int, size: Int, timeout: Double, watch: JobWatch
    ) throws(CommunicationError) -> JobLink {
        let end = ContinuousClock.now + .seconds(timeout)
        while ContinuousClock.now < end {
            for host in place.hosts {
                guard let socket = LinkSocket.connecting(to: host, port: place.port) else { continue }
                socket.send("hello \(place.secret) \(rank) \(getpid()) \(LocalHost.name)")
                var lines = LinkLines(socket)
                let fields = lines.first(within: timeout)?.split(separator: " ") ?? []
                guard fields.count == 3, fields[0] == "welcome",
                    let hub = LinkPeer(rank: 0, process: fields[1], host: fields[2], socket: socket)
                else { continue }
                return try JobLink(rank: rank, size: size, peers: [hub], timeout: timeout, watch: watch)
            }
            usleep(100_000)
        }
        throw .link(
            "rank \(rank) on \(LocalHost.name) cannot reach rank 0 at port \(place.port) of "
                + place.hosts.joined(separator: ", "))
    }
}
