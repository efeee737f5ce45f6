/// Sends requests when they are due and takes down when their answers come: one thread, one wait for all sockets.
struct LoadGenerator {
    private let requests: [[UInt8]]
    private let due: [Double]
    private let concurrency: Int
    private let address: SocketAddress
    private let requestTimeout: Double
    private var records: [RequestRecord]
    private var active: [Exchange] = []
    private var idle: [Connection] = []
    private var buffer = [UInt8](repeating: 0, count: 1 << 16)

    /// The most requests that ran at once.
    private(set) var peakConcurrency = 0

    /// - Parameters:
    ///   - requests: the bytes of each request.
    ///   - due: seconds from the start at which each is to be sent.
    ///   - concurrency: at most this many at once.
    ///   - address: where to.
    ///   - requestTimeout: seconds after which a request is given up.
    init(requests: [[UInt8]], due: [Double], concurrency: Int?, address: SocketAddress, requestTimeout: Double) {
        self.requests = requests
        self.due = due
        self.concurrency = concurrency ?? .max
        self.address = address
        self.requestTimeout = requestTimeout
        records = [RequestRecord](repeating: RequestRecord(), count: requests.count)
    }

    /// Runs all requests.
    /// - Parameter progress: called now and then with the number of requests that have ended.
    mutating func run(progress: (Int) -> Void) -> [RequestRecord] {
        var entries: [PollEntry] = []
        var interest: [(descriptor: Int32, writes: Bool)] = []
        var next = 0
        let origin = Clock.now
        while next < requests.count || !active.isEmpty {
            var now = Clock.now
            while next < requests.count, active.count < concurrency, origin + due[next] <= now {
                start(next, at: now)
                next += 1
            }
            var wait = 1.0
            if next < requests.count, active.count < concurrency { wait = min(wait, origin + due[next] - now) }
            interest.removeAll(keepingCapacity: true)
            for exchange in active {
                interest.append((exchange.connection.socket.descriptor, exchange.connection.wantsToWrite))
            }
            let ready = Socket.wait(interest, seconds: wait, &entries)
            now = Clock.now
            serve(ready > 0 ? entries : [], at: now)
            progress(next - active.count)
        }
        return records
    }

    private mutating func start(_ index: Int, at now: Double) {
        do throws(SocketError) {
            let connection: Connection
            if let known = idle.popLast() { connection = known } else { connection = try Connection(to: address) }
            let exchange = Exchange(index, requests[index], over: connection, to: address, at: now)
            if exchange.begin(at: now) { end(exchange) } else { active.append(exchange) }
            peakConcurrency = max(peakConcurrency, active.count)
        } catch {
            records[index].start = now
            records[index].end = now
            records[index].failure = error.reason
        }
    }

    /// Moves on what is ready and gives up what takes too long.
    private mutating func serve(_ entries: [PollEntry], at now: Double) {
        var kept = 0
        for place in active.indices {
            let exchange = active[place]
            if place < entries.count, entries[place].revents != 0, exchange.advance(entries[place], &buffer, at: now) {
                end(exchange)
                continue
            }
            if now - exchange.record.start > requestTimeout {
                exchange.fail("no end after \(Int(requestTimeout)) s", at: now)
                end(exchange)
                continue
            }
            active[kept] = exchange
            kept += 1
        }
        active.removeLast(active.count - kept)
    }

    private mutating func end(_ exchange: Exchange) {
        records[exchange.index] = exchange.record
        if exchange.connection.isReusable, exchange.record.failure == nil { idle.append(exchange.connection) }
    }
}
