/// One connection to the server: sends a request, reads its response, may be used again.
final class Connection {
    /// What reading gave.
    enum Progress {
        case goesOn
        case complete
        /// The connection ended before a byte of the response came: the request may be sent once more.
        case closedEarly
        case failed(String)
    }

    let socket: Socket
    private var output: [UInt8] = []
    private var sent = 0
    private var isConnected = false
    private(set) var parser = ResponseParser()
    private var hasResponse = false

    init(to address: SocketAddress) throws(SocketError) { socket = try Socket(connectingTo: address) }

    /// Whether the connection waits to be writable.
    var wantsToWrite: Bool { !isConnected || sent < output.count }

    /// Whether another request may be sent now.
    var isReusable: Bool { isConnected && parser.isComplete && parser.keepsAlive }

    func send(_ request: [UInt8]) -> Progress {
        output = request
        sent = 0
        parser = ResponseParser()
        hasResponse = false
        return isConnected ? flush() : .goesOn
    }

    /// To be called when the socket is writable.
    func flush() -> Progress {
        if !isConnected {
            if let reason = socket.connectionError { return .failed(reason) }
            isConnected = true
        }
        while sent < output.count {
            switch socket.write(output[sent...]) {
            case .bytes(let count): sent += count
            case .wouldBlock: return .goesOn
            case .ended: return .closedEarly
            case .failed(let reason): return hasResponse ? .failed(reason) : .closedEarly
            }
        }
        return .goesOn
    }

    /// To be called when the socket is readable; `body` gets the parts of the response's body.
    func read(_ buffer: inout [UInt8], _ body: (ArraySlice<UInt8>) -> Void) -> Progress {
        while true {
            switch socket.read(into: &buffer) {
            case .bytes(let count):
                hasResponse = true
                do {
                    try parser.take(buffer[..<count], body)
                } catch {
                    guard case .malformed(let what) = error else { return .failed("a malformed response") }
                    return .failed("a malformed response: \(what)")
                }
                if parser.isComplete { return .complete }
                if count < buffer.count { return .goesOn }
            case .wouldBlock: return .goesOn
            case .ended:
                if hasResponse, parser.endsWithConnection { return .complete }
                return hasResponse ? .failed("the connection ended in the middle of the response") : .closedEarly
            case .failed(let reason): return hasResponse ? .failed(reason) : .closedEarly
            }
        }
    }
}
