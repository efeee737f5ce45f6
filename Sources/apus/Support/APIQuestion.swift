import ApusTensor
import ApusText

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// A question to a server on this machine over its chat API, answered as a stream.
struct APIQuestion {
    /// What the answer cost.
    struct Figures {
        var tokens = 0
        var secondsToFirst = 0.0
        /// From the first piece of text to the last.
        var seconds = 0.0
    }

    let port: Int
    let key: String?

    /// Asks, and waits for the whole answer.
    /// - Parameter emit: called with each piece of the answer's text.
    /// - Throws: ``APIQuestionError``.
    func ask(_ text: String, emit: (String) throws -> Void) throws -> Figures {
        let body: JSONValue = [
            "messages": [["role": "user", "content": .string(text)]], "stream": true, "temperature": 0,
            "max_completion_tokens": 256, "stream_options": ["include_usage": true],
        ]
        let bytes = Array(body.serialized().utf8)
        let authorization = key.map { "authorization: Bearer \($0)\r\n" } ?? ""
        let head =
            "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            + "\(authorization)connection: close\r\ncontent-length: \(bytes.count)\r\n\r\n"
        var connection = try Connection(port: port)
        defer { connection.close() }
        let start = ContinuousClock.now
        try connection.send(Array(head.utf8) + bytes)
        let status = try connection.readLine()
        while try !connection.readLine().isEmpty {}
        guard status.hasPrefix("HTTP/1.1 200") else { throw APIQuestionError(reason: "the server said \(status)") }
        var figures = Figures()
        var first: ContinuousClock.Instant?
        while let event = try connection.nextEvent() {
            if let message = event["error"]?["message"]?.stringValue { throw APIQuestionError(reason: message) }
            if let tokens = event["usage"]?["completion_tokens"]?.intValue { figures.tokens = tokens }
            guard let piece = event["choices"]?[0]?["delta"]?["content"]?.stringValue, !piece.isEmpty else { continue }
            let now = ContinuousClock.now
            if first == nil { first = now }
            figures.secondsToFirst = ((first ?? now) - start).inSeconds
            figures.seconds = (now - (first ?? now)).inSeconds
            try emit(piece)
        }
        return figures
    }
}

/// A question that the server did not answer.
struct APIQuestionError: Error, CustomStringConvertible {
    let reason: String
    var description: String { "the API gave no answer: \(reason)" }
}

/// A connection to a port of this machine, read as a chunked response.
private struct Connection {
    private let descriptor: Int32
    private var buffer: [UInt8] = []
    private var start = 0
    private var chunkLeft = 0

    init(port: Int) throws {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        guard descriptor >= 0 else { throw Self.systemError() }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = in_port_t(port).bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        let result = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard result == 0 else {
            let error = Self.systemError()
            close()
            throw error
        }
    }

    func close() { _ = Glibc.close(descriptor) }

    func send(_ bytes: [UInt8]) throws {
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes {
                Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
            }
            guard count > 0 else { throw Self.systemError() }
            rest = rest.dropFirst(count)
        }
    }

    /// The next line, without its end.
    mutating func readLine() throws -> String {
        var line: [UInt8] = []
        while let byte = try next(), byte != UInt8(ascii: "\n") { if byte != UInt8(ascii: "\r") { line.append(byte) } }
        return String(decoding: line, as: UTF8.self)
    }

    /// The next event's data, or nil after the last.
    mutating func nextEvent() throws -> JSONValue? {
        var line: [UInt8] = []
        while let byte = try nextOfBody() {
            guard byte == UInt8(ascii: "\n") else {
                line.append(byte)
                continue
            }
            let text = String(decoding: line, as: UTF8.self)
            if text == "data: [DONE]" { return nil }
            if text.hasPrefix("data: ") { return try JSONValue(parsing: String(text.dropFirst(6))) }
            line = []
        }
        return nil
    }

    /// The next byte of the body, whose chunks each follow a line with their size.
    private mutating func nextOfBody() throws -> UInt8? {
        if chunkLeft == 0 {
            var line = try readLine()
            if line.isEmpty { line = try readLine() }
            guard let size = Int(line, radix: 16), size > 0 else { return nil }
            chunkLeft = size
        }
        chunkLeft -= 1
        return try next()
    }

    private mutating func next() throws -> UInt8? {
        if start == buffer.count {
            buffer = [UInt8](unsafeUninitializedCapacity: 1 << 14) { memory, count in
                count = max(recv(descriptor, memory.baseAddress, memory.count, 0), 0)
            }
            start = 0
            if buffer.isEmpty { return nil }
        }
        defer { start += 1 }
        return buffer[start]
    }

    private static func systemError() -> APIQuestionError { APIQuestionError(reason: String(cString: strerror(errno))) }
}
