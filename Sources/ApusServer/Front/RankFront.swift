import ApusText
import HTTPTypes
import Hummingbird
import HummingbirdCore
import HummingbirdTLS
import Logging
import NIOCore
import NIOPosix
import NIOSSL
import ServiceLifecycle

/// The HTTP server before models that ranks compute: a process outside their jobs, which starts them and outlives them.
///
/// Requests go to the group that answers the fewest. When a group's job ends, requests it was answering get an error (a stream
/// an event with it), new ones go to other groups or get 503, and the job is started again.
public struct RankFront: Sendable {
    private let groups: [RankGroup]
    private let configuration: APIServerConfiguration
    private let logger: Logger

    /// A front for groups of ranks.
    /// - Parameters:
    ///   - groups: copies of the model.
    ///   - command: what starts a group, by its number, whose first rank listens on a port.
    public init(
        groups: Int, configuration: APIServerConfiguration, logger: Logger,
        command: (_ number: Int, _ port: Int) -> [String]
    ) {
        self.configuration = configuration
        self.logger = logger
        self.groups = (0..<groups).map { number in
            let port = RankGroup.freePort()
            return RankGroup(number: number, port: port, command: command(number, port), logger: logger)
        }
    }

    /// Starts the groups and serves until the process is told to stop.
    /// - Throws: when the launcher cannot be started, or the address cannot be had.
    public func run(on loop: any EventLoop, onRunning: @escaping @Sendable (Int) async -> Void = { _ in }) async throws
    {
        for group in groups { try group.start() }
        defer { for group in groups { group.stop() } }
        let http = HTTP1Channel.Configuration(
            additionalChannelHandlers: [
                ConnectionGuard(bodyTimeout: configuration.bodyTimeout, writeTimeout: configuration.writeTimeout)
            ],
            idleTimeout: TimeAmount(configuration.idleTimeout),
            httpDecoderConfiguration: .init(
                maxHeaderFieldSize: configuration.maxHeaderBytes, maxHeaderListSize: configuration.maxHeaderBytes,
                maxHeaderFieldCount: 100))
        let (front, configuration) = (self, configuration)
        let application = Application(
            responder: CallbackResponder { (request: Request, _: BasicRequestContext) in
                await front.respond(to: request, on: loop)
            },
            server: try APIServer.tlsConfiguration(configuration).map {
                try .tls(.http1(configuration: http), tlsConfiguration: $0)
            } ?? .http1(configuration: http),
            configuration: ApplicationConfiguration(
                address: .hostname(configuration.host, port: configuration.port), serverName: "apus", backlog: 1024,
                availableConnectionsDelegate: MaximumAvailableConnections(configuration.maxConnections)),
            onServerRunning: { channel in await onRunning(channel.localAddress?.port ?? configuration.port) },
            eventLoopGroupProvider: .shared(loop), logger: logger)
        var settings = ServiceGroupConfiguration(
            services: [.init(service: application)], gracefulShutdownSignals: [.sigterm, .sigint], logger: logger)
        settings.maximumGracefulShutdownDuration = configuration.drainTimeout + .seconds(5)
        let services = ServiceGroup(configuration: settings)
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            tasks.addTask { try await services.run() }
            tasks.addTask { await lookForReadyGroups(on: loop) }
            try await tasks.next()
            tasks.cancelAll()
        }
    }

    /// Asks the groups that do not answer yet, until this is cancelled.
    private func lookForReadyGroups(on loop: any EventLoop) async {
        let question = HTTPRequest(method: .get, scheme: "http", authority: "127.0.0.1", path: "/ready")
        while !Task.isCancelled {
            for group in groups where !group.isReady {
                let answer = Upstream.answer(to: question, body: ByteBuffer(), port: group.port, on: loop)
                do {
                    for try await case .head(let head) in answer where head.status == .ok { group.answered() }
                } catch { continue }
            }
            try? await Task.sleep(for: .milliseconds(200))
        }
    }

    private func respond(to request: Request, on loop: any EventLoop) async -> Response {
        if request.uri.path == "/ranks" { return status }
        if request.uri.path == "/metrics" { return await metrics(request.head, on: loop) }
        guard groups.contains(where: \.isReady) else { return noneReady }
        do {
            let body = try await request.body.collect(upTo: configuration.maxBodyBytes)
            var head = request.head
            // What belongs to the client's connection alone.
            for name in Self.connectionFields { head.headerFields[name] = nil }
            head.headerFields[.contentLength] = "\(body.readableBytes)"
            // As long as nothing of an answer has come, another group can give it.
            var tried: Set<Int> = []
            while let group = leastBusy(besides: tried) {
                tried.insert(group.number)
                group.began()
                do {
                    let answer = Upstream.answer(to: head, body: body, port: group.port, on: loop)
                    for try await part in answer {
                        guard case .head(let head) = part else { continue }
                        return relayed(head, answer, group)
                    }
                } catch {
                    logger.info("group \(group.number) broke off before it answered: \(error)")
                }
                group.ended()
                group.brokeOff()
            }
            return tried.isEmpty ? noneReady : Self.gone.response
        } catch let error as HTTPError {
            return APIError(
                status: error.status, message: error.body ?? error.status.reasonPhrase, type: "invalid_request_error"
            ).response
        } catch {
            return APIError(
                status: .badRequest, message: "the request's body broke off: \(error)", type: "invalid_request_error"
            ).response
        }
    }

    private func leastBusy(besides tried: Set<Int>) -> RankGroup? {
        groups.filter { $0.isReady && !tried.contains($0.number) }.min { $0.open < $1.open }
    }

    private var noneReady: Response {
        let reasons = groups.map { "group \($0.number) \($0.ending)" }.joined(separator: ", ")
        return APIError.unavailable("no ranks are ready: \(reasons)", code: "ranks_not_ready", retryAfter: 5).response
    }

    /// The metrics of all groups that answer, each sample with its group's number as the label `replica`.
    private func metrics(_ head: HTTPRequest, on loop: any EventLoop) async -> Response {
        var head = head
        for name in Self.connectionFields + [.contentLength] { head.headerFields[name] = nil }
        var merged = MergedMetrics()
        for group in groups where group.isReady {
            let answer = Upstream.answer(to: head, body: ByteBuffer(), port: group.port, on: loop)
            var (text, status) = (ByteBuffer(), HTTPResponse.Status.ok)
            do {
                for try await part in answer {
                    switch part {
                    case .head(let head): status = head.status
                    case .body(var bytes): text.writeBuffer(&bytes)
                    }
                }
            } catch {
                group.brokeOff()
                continue
            }
            guard status == .ok else {
                // All groups have the same keys: what one refuses, all do.
                return Response(
                    status: status, headers: [.contentType: "application/json"], body: ResponseBody(byteBuffer: text))
            }
            merged.add(String(buffer: text), replica: group.number)
        }
        guard !merged.isEmpty else { return noneReady }
        return Response(
            status: .ok, headers: [.contentType: "text/plain; version=0.0.4; charset=utf-8"],
            body: ResponseBody(byteBuffer: ByteBuffer(string: merged.text)))
    }

    private static let connectionFields: [HTTPField.Name] = [
        .connection, .transferEncoding, .upgrade, .expect, HTTPField.Name("keep-alive")!,
    ]

    private static let gone = APIError.unavailable(
        "the ranks that computed the answer have ended", code: "ranks_ended", retryAfter: 5)

    /// The answer of a group as it comes.
    private func relayed(
        _ head: HTTPResponse, _ answer: AsyncThrowingStream<Upstream.Part, any Error>, _ group: RankGroup
    ) -> Response {
        var headers = head.headerFields
        let length = headers[.contentLength].flatMap { Int($0) }
        for name in Self.connectionFields + [.contentLength] { headers[name] = nil }
        let isEvents = headers[.contentType]?.hasPrefix("text/event-stream") ?? false
        let body = ResponseBody(contentLength: length) { writer in
            defer { group.ended() }
            do {
                for try await part in answer {
                    if case .body(let bytes) = part { try await writer.write(bytes) }
                }
            } catch  where isEvents {
                group.brokeOff()
                // A stream has begun with 200: what went wrong can be told as an event only.
                let text = "data: \(Self.gone.json.serialized())\n\ndata: [DONE]\n\n"
                try await writer.write(ByteBuffer(string: text))
            }
            try await writer.finish(nil)
        }
        return Response(status: head.status, headers: headers, body: body)
    }

    /// What the groups do now.
    private var status: Response {
        let value: JSONValue = [
            "groups": .array(
                groups.map {
                    [
                        "ready": .bool($0.isReady), "open_requests": .integer(Int64($0.open)),
                        "starts": .integer(Int64($0.starts)),
                    ]
                })
        ]
        return Response(
            status: .ok, headers: [.contentType: "application/json"],
            body: ResponseBody(byteBuffer: ByteBuffer(string: value.serialized())))
    }
}
