/// Reads HTTP/1.1 responses as their bytes come: bodies of a given length, in chunks, or until the end of the connection.
struct ResponseParser {
    enum ParseError: Error {
        case malformed(String)
    }

    private enum Place {
        case head
        case fixed(left: Int)
        case chunkSize
        case chunk(left: Int)
        case chunkEnd
        case trailer
        case untilClose
        case complete
    }

    private var place = Place.head
    private var line: [UInt8] = []
    private var isFirstLine = true
    private var length: Int?
    private var isChunked = false

    private(set) var status = 0
    /// Whether the connection may be used for another request.
    private(set) var keepsAlive = true
    /// The value of Retry-After in seconds, where there is one.
    private(set) var retryAfter: Double?

    private static let lineLimit = 1 << 16

    /// Whether the whole response has been read.
    var isComplete: Bool { if case .complete = place { true } else { false } }

    /// Whether the end of the connection ends the response properly.
    var endsWithConnection: Bool { if case .untilClose = place { true } else { false } }

    /// Takes bytes; calls `body` with those that belong to the body.
    mutating func take(_ bytes: ArraySlice<UInt8>, _ body: (ArraySlice<UInt8>) -> Void) throws(ParseError) {
        var rest = bytes
        while !rest.isEmpty {
            switch place {
            case .head: if try takeLine(&rest) { try headLine() }
            case .fixed(let left):
                let part = rest.prefix(left)
                body(part)
                rest = rest.dropFirst(part.count)
                place = part.count == left ? .complete : .fixed(left: left - part.count)
            case .chunkSize:
                guard try takeLine(&rest) else { return }
                let digits = line.prefix { $0 != UInt8(ascii: ";") && $0 != 0x20 }
                guard let size = Int(String(decoding: digits, as: UTF8.self), radix: 16), size >= 0 else {
                    throw .malformed("a chunk's size")
                }
                line = []
                place = size == 0 ? .trailer : .chunk(left: size)
            case .chunk(let left):
                let part = rest.prefix(left)
                body(part)
                rest = rest.dropFirst(part.count)
                place = part.count == left ? .chunkEnd : .chunk(left: left - part.count)
            case .chunkEnd:
                guard try takeLine(&rest) else { return }
                guard line.isEmpty else { throw .malformed("the end of a chunk") }
                place = .chunkSize
            case .trailer:
                guard try takeLine(&rest) else { return }
                if line.isEmpty { place = .complete }
                line = []
            case .untilClose:
                body(rest)
                return
            case .complete: throw .malformed("bytes behind the response")
            }
        }
    }

    /// Collects a line without its end; whether it is whole.
    private mutating func takeLine(_ rest: inout ArraySlice<UInt8>) throws(ParseError) -> Bool {
        guard let end = rest.firstIndex(of: 0x0A) else {
            line += rest
            rest = []
            guard line.count < Self.lineLimit else { throw .malformed("a line of the head") }
            return false
        }
        line += rest[rest.startIndex..<end]
        rest = rest[(end + 1)...]
        if line.last == 0x0D { line.removeLast() }
        return true
    }

    private mutating func headLine() throws(ParseError) {
        defer { line = [] }
        let text = String(decoding: line, as: UTF8.self)
        if isFirstLine {
            let words = text.split(separator: " ", maxSplits: 2)
            guard words.count >= 2, words[0].hasPrefix("HTTP/1."), let code = Int(words[1]) else {
                throw .malformed("the status line '\(text.prefix(80))'")
            }
            status = code
            keepsAlive = words[0] == "HTTP/1.1"
            isFirstLine = false
            return
        }
        guard !text.isEmpty else { return endHead() }
        guard let colon = text.firstIndex(of: ":") else { throw .malformed("the header '\(text.prefix(80))'") }
        let value = text[text.index(after: colon)...].drop { $0 == " " }.lowercased()
        switch text[..<colon].lowercased() {
        case "content-length":
            guard let count = Int(value), count >= 0 else { throw .malformed("Content-Length") }
            length = count
        case "transfer-encoding": isChunked = value.contains("chunked")
        case "connection":
            if value.contains("close") { keepsAlive = false }
            if value.contains("keep-alive") { keepsAlive = true }
        case "retry-after": retryAfter = Double(value)
        default: break
        }
    }

    private mutating func endHead() {
        if status / 100 == 1 {
            // An interim response: the real one follows.
            self = ResponseParser()
        } else if isChunked {
            place = .chunkSize
        } else if let length {
            place = length == 0 ? .complete : .fixed(left: length)
        } else if status == 204 || status == 304 {
            place = .complete
        } else {
            place = .untilClose
            keepsAlive = false
        }
    }
}
