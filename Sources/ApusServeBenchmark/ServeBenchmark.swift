import ApusText

/// Measures a server that speaks OpenAI's API, as `vllm bench serve` does.
///
/// The client is one thread that waits for all sockets at once and looks for a few keys in each event, so that it takes
/// little of the machine it may share with the server. Times are from when a request is handed to its connection.
public struct ServeBenchmark: Sendable {
    /// Where the server listens.
    public var address: ServerAddress
    /// What is the same in all requests.
    public var options = RequestOptions()
    /// When requests are sent.
    public var arrivals = Arrivals()
    /// Limits of good requests.
    public var limits: GoodputLimits
    /// Sent as a bearer token.
    public var apiKey: String?
    /// Requests, like the first ones, that are sent one by one before the measurement and not counted.
    public var warmup = 1
    /// Seconds after which a request is given up.
    public var requestTimeout = 600.0
    /// Seed of the arrival times.
    public var seed: UInt64 = 0

    /// A measurement of the server at an address: everything at once, no limits.
    public init(_ address: ServerAddress) throws(ServeBenchmarkError) {
        self.address = address
        limits = try GoodputLimits([])
    }

    /// Runs the requests.
    /// - Parameters:
    ///   - requests: at least one.
    ///   - warmupRequests: sent one by one before; not counted.
    ///   - settings: what the report should say of the workload.
    ///   - progress: called now and then with the number of requests that have ended.
    /// - Throws: ``ServeBenchmarkError``; requests that fail are counted in the result instead.
    public func run(
        _ requests: [BenchmarkRequest], warmupRequests: [BenchmarkRequest] = [],
        settings: [(name: String, value: String)] = [], progress: (Int) -> Void = { _ in }
    ) throws(ServeBenchmarkError) -> ServeBenchmarkResult {
        guard !requests.isEmpty else { throw .parameter(name: "requests", expected: "at least 1", found: "0") }
        let addresses = try address.resolve()
        let writer = HTTPRequestWriter(address: address, apiKey: apiKey)
        let model: String
        if let named = options.model { model = named } else { model = try firstModel(writer, addresses) }
        let bodies = encoded(requests, writer, model)
        let due = try arrivals.times(bodies.count, seed: seed)
        for body in encoded(warmupRequests, writer, model) {
            let (status, text) = try SimpleRequest.send(
                body, to: addresses, named: address.authority, seconds: requestTimeout)
            guard status == 200 else {
                throw .response(
                    request: "a request before the measurement", status: status,
                    body: String(decoding: text.prefix(300), as: UTF8.self))
            }
        }
        let before = counters(writer, addresses)
        let reachable = try reachable(addresses, writer)
        let processorStart = Clock.processSeconds
        var generator = LoadGenerator(
            requests: bodies, due: due, concurrency: arrivals.concurrency, address: reachable,
            requestTimeout: requestTimeout)
        let records = generator.run(progress: progress)
        let clientSeconds = Clock.processSeconds - processorStart
        let after = counters(writer, addresses)
        return ServeBenchmarkResult(
            records, requests: requests, settings: [("server", address.authority), ("model", model)] + settings,
            limits: limits, peakConcurrency: generator.peakConcurrency,
            speculation: before.flatMap { before in after.flatMap { SpeculationFigures($0, since: before) } },
            clientSeconds: clientSeconds)
    }

    private func encoded(_ requests: [BenchmarkRequest], _ writer: HTTPRequestWriter, _ model: String) -> [[UInt8]] {
        requests.map { request in
            let (path, json) = options.body(request, model: model)
            return writer.post(path, json: json)
        }
    }

    private func firstModel(
        _ writer: HTTPRequestWriter, _ addresses: [SocketAddress]
    ) throws(ServeBenchmarkError) -> String {
        let (status, body) = try SimpleRequest.send(
            writer.get("/v1/models"), to: addresses, named: address.authority, seconds: 30)
        guard status == 200, let name = (try? JSONValue(parsing: body))?["data"]?[0]?["id"]?.stringValue else {
            throw .response(
                request: "GET /v1/models", status: status, body: String(decoding: body.prefix(300), as: UTF8.self))
        }
        return name
    }

    /// The first address at which the server answers.
    private func reachable(
        _ addresses: [SocketAddress], _ writer: HTTPRequestWriter
    ) throws(ServeBenchmarkError) -> SocketAddress {
        for candidate in addresses.dropLast() {
            if (try? SimpleRequest.send(
                writer.get("/v1/models"), to: [candidate], named: address.authority, seconds: 5)) != nil
            {
                return candidate
            }
        }
        guard let last = addresses.last else { throw .connection(address: address.authority, reason: "no address") }
        return last
    }

    private func counters(_ writer: HTTPRequestWriter, _ addresses: [SocketAddress]) -> ServerCounters? {
        guard
            let (status, body) = try? SimpleRequest.send(
                writer.get("/metrics"), to: addresses, named: address.authority, seconds: 10), status == 200
        else { return nil }
        return ServerCounters(String(decoding: body, as: UTF8.self))
    }
}
