/// Rewards from an endpoint: a POST of JSON for each prompt, answered with JSON (see ``ProcessReward`` for both).
///
/// Plain HTTP/1.0, a connection a request; for use within a machine or a trusted network.
public struct HTTPReward: RewardFunction {
    /// See ``RewardFunction/name``.
    public let name: String
    private let host: String
    private let port: String
    private let path: String
    private let timeOut: Duration

    /// A response is at most so long.
    private static let longestResponse = 64 << 20

    /// A reward by an address: `http://host:port/path`.
    /// - Parameter timeOut: for one prompt's outputs.
    /// - Throws: ``RewardError/specification(_:expected:)``.
    public init(address: String, timeOut: Duration = .seconds(60)) throws {
        let expected = "http://host:port/path"
        guard address.hasPrefix("http://"), !address.utf8.contains(where: { $0 <= 32 || $0 >= 127 }) else {
            throw RewardError.specification(address, expected: expected)
        }
        let rest = address.dropFirst(7)
        let authority = rest.prefix { $0 != "/" }
        path = authority.count == rest.count ? "/" : String(rest[authority.endIndex...])
        if authority.hasPrefix("[") {
            guard let end = authority.firstIndex(of: "]") else {
                throw RewardError.specification(address, expected: expected)
            }
            host = String(authority[authority.index(after: authority.startIndex)..<end])
            let after = authority[authority.index(after: end)...]
            port = after.isEmpty ? "80" : String(after.dropFirst())
        } else {
            let parts = authority.split(separator: ":", omittingEmptySubsequences: false)
            host = String(parts[0])
            port = parts.count > 1 ? String(parts[1]) : "80"
            guard parts.count <= 2 else { throw RewardError.specification(address, expected: expected) }
        }
        guard !host.isEmpty, let number = Int(port), (1...65535).contains(number) else {
            throw RewardError.specification(address, expected: expected)
        }
        name = address
        self.timeOut = timeOut
    }

    /// See ``RewardFunction/rewards(of:prompt:)``.
    public func rewards(of outputs: [String], prompt: RewardPrompt) throws -> [Double] {
        let deadline = ContinuousClock.now + timeOut
        let body = Array(RewardExchange.question(outputs, prompt).utf8)
        let head =
            "POST \(path) HTTP/1.0\r\nHost: \(host):\(port)\r\nContent-Type: application/json\r\n"
            + "Content-Length: \(body.count)\r\nConnection: close\r\n\r\n"
        let response: [UInt8]
        do {
            let channel = try Channel.connect(host: host, port: port, by: deadline)
            try channel.write(Array(head.utf8) + body, by: deadline)
            response = try channel.rest(by: deadline, atMost: Self.longestResponse)
        } catch {
            switch error {
            case .timeOut: throw RewardError.external("expected an answer within \(timeOut), none came")
            case .closed: throw RewardError.external("it closed the connection before the request was through")
            case .system(let reason): throw RewardError.external(reason)
            }
        }
        return try RewardExchange.rewards(try Self.body(of: response), outputs: outputs.count)
    }

    /// The body of a successful response.
    private static func body(of response: [UInt8]) throws -> [UInt8] {
        let separator = Array("\r\n\r\n".utf8)
        guard response.starts(with: "HTTP/1.".utf8),
            let end = response.indices.first(where: { response[$0...].starts(with: separator) })
        else {
            let found = response.isEmpty ? "nothing" : String(decoding: response.prefix(80), as: UTF8.self)
            throw RewardError.external("expected an HTTP response, found \(found)")
        }
        let lines = String(decoding: response[..<end], as: UTF8.self).split(separator: "\r\n")
        let status = lines[0].split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0
        let body = Array(response[(end + separator.count)...])
        guard status == 200 else {
            throw RewardError.external(
                "expected status 200, found \(status): \(String(decoding: body.prefix(200), as: UTF8.self))")
        }
        let headers = lines.dropFirst().map { $0.lowercased() }
        if headers.contains(where: { $0.hasPrefix("transfer-encoding:") && $0.contains("chunked") }) {
            throw RewardError.external("expected a plain body, as HTTP/1.0 has, found a chunked one")
        }
        if let length = headers.first(where: { $0.hasPrefix("content-length:") }),
            let count = Int(length.dropFirst(15).filter { $0 != " " }), count != body.count
        {
            throw RewardError.external("expected a body of \(count) bytes, found \(body.count)")
        }
        return body
    }
}
