/// One request on its way: its connection, what has come of the answer, and when.
final class Exchange {
    let index: Int
    private let request: [UInt8]
    private let address: SocketAddress
    private(set) var connection: Connection
    private(set) var record = RequestRecord()
    private var scanner = EventScanner()
    private var beginning: [UInt8] = []
    private var isDone = false
    private var wasRepeated = false

    private static let shownBytes = 300

    init(_ index: Int, _ request: [UInt8], over connection: Connection, to address: SocketAddress, at now: Double) {
        self.index = index
        self.request = request
        self.connection = connection
        self.address = address
        record.start = now
    }

    /// Sends the request; whether that ended the exchange.
    func begin(at now: Double) -> Bool { ends(connection.send(request), at: now) }

    /// Does what the socket is ready for; whether that ended the exchange.
    func advance(_ entry: PollEntry, _ buffer: inout [UInt8], at now: Double) -> Bool {
        var progress = Connection.Progress.goesOn
        if entry.isWritable { progress = connection.flush() }
        if case .goesOn = progress, entry.isReadable {
            progress = connection.read(&buffer) { bytes in take(bytes, at: now) }
        }
        return ends(progress, at: now)
    }

    private func take(_ bytes: ArraySlice<UInt8>, at now: Double) {
        if beginning.count < Self.shownBytes { beginning += bytes.prefix(Self.shownBytes) }
        scanner.take(bytes) { event in
            switch event {
            case .text: record.text(at: now)
            case .done: isDone = true
            case .error(let message): if record.failure == nil { record.failure = message }
            case .other: break
            }
        }
    }

    private func ends(_ progress: Connection.Progress, at now: Double) -> Bool {
        switch progress {
        case .goesOn: return false
        case .complete: finish(at: now)
        case .closedEarly:
            // A server may close an idle connection just as it is used again.
            if !wasRepeated, let connection = try? Connection(to: address) {
                self.connection = connection
                wasRepeated = true
                return ends(connection.send(request), at: now)
            }
            fail("the server closed the connection", at: now)
        case .failed(let reason): fail(reason, at: now)
        }
        return true
    }

    private func finish(at now: Double) {
        record.end = now
        record.promptTokens = scanner.promptTokens
        record.countedTokens = scanner.completionTokens
        let status = connection.parser.status
        if status != 200 {
            let shown = String(decoding: beginning.prefix(Self.shownBytes), as: UTF8.self)
            record.failure = "status \(status): \(shown)"
        } else if record.failure == nil, !isDone {
            record.failure = "the stream ended without [DONE]"
        } else if record.failure == nil, record.first == nil {
            record.failure = "no text came"
        }
    }

    /// Ends the exchange for a reason.
    func fail(_ reason: String, at now: Double) {
        record.end = now
        record.failure = reason
    }
}
