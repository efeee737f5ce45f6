/// Bytes of requests, made before the clock runs.
struct HTTPRequestWriter: Sendable {
    let address: ServerAddress
    let apiKey: String?

    func post(_ path: String, json body: String) -> [UInt8] {
        let bytes = Array(body.utf8)
        var head = "POST \(address.prefix)\(path) HTTP/1.1\r\nHost: \(address.authority)\r\n"
        head += "Content-Type: application/json\r\nAccept: text/event-stream\r\nContent-Length: \(bytes.count)\r\n"
        return Array((head + authorization + "\r\n").utf8) + bytes
    }

    func get(_ path: String) -> [UInt8] {
        Array("GET \(address.prefix)\(path) HTTP/1.1\r\nHost: \(address.authority)\r\n\(authorization)\r\n".utf8)
    }

    private var authorization: String { apiKey.map { "Authorization: Bearer \($0)\r\n" } ?? "" }
}

/// One request whose whole response is waited for.
enum SimpleRequest {
    /// - Returns: status and body.
    /// - Throws: ``ServeBenchmarkError/connection(address:reason:)``.
    static func send(
        _ request: [UInt8], to addresses: [SocketAddress], named name: String, seconds: Double
    ) throws(ServeBenchmarkError) -> (status: Int, body: [UInt8]) {
        var reason = "no address"
        for address in addresses {
            do throws(SocketError) {
                let connection = try Connection(to: address)
                switch exchange(request, over: connection, until: Clock.now + seconds) {
                case .success(let body): return (connection.parser.status, body)
                case .failure(let error): reason = error.reason
                }
            } catch {
                reason = error.reason
            }
        }
        throw .connection(address: name, reason: reason)
    }

    private static func exchange(
        _ request: [UInt8], over connection: Connection, until deadline: Double
    ) -> Result<[UInt8], SocketError> {
        var scratch: [PollEntry] = []
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        var body: [UInt8] = []
        var progress = connection.send(request)
        while Clock.now < deadline {
            switch progress {
            case .complete: return .success(body)
            case .failed(let reason): return .failure(SocketError(reason: reason))
            case .closedEarly: return .failure(SocketError(reason: "the server closed the connection"))
            case .goesOn: break
            }
            let interest = [(connection.socket.descriptor, connection.wantsToWrite)]
            guard Socket.wait(interest, seconds: deadline - Clock.now, &scratch) > 0 else { continue }
            if scratch[0].isWritable {
                progress = connection.flush()
                if case .goesOn = progress {} else { continue }
            }
            if scratch[0].isReadable { progress = connection.read(&buffer) { body += $0 } }
        }
        return .failure(SocketError(reason: "no answer in time"))
    }
}
