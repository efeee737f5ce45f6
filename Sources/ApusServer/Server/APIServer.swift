import ApusEngine
import HTTPTypes
import Hummingbird
import HummingbirdCore
import HummingbirdTLS
import Logging
import NIOCore
import NIOPosix
import NIOSSL
import ServiceLifecycle
import UnixSignals

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// An OpenAI-compatible HTTP server over one ``Engine``.
///
/// ```swift
/// let loop = APIServer.makeEventLoop()
/// var settings = EngineConfiguration()
/// settings.deliver = APIServer.delivery(on: loop)
/// let engine = try Engine(try LanguageModel.load(path: "model.gguf"), settings)
/// let server = APIServer(engine: engine, configuration: APIServerConfiguration(modelName: "model", version: "1"))
/// try await server.run(on: loop)
/// ```
///
/// All connections live on one event loop, and their tasks run on its thread: a token costs one write and no change of threads.
/// Long bodies are parsed and tokenised elsewhere.
public struct APIServer: Sendable {
    private let service: APIService
    private let logger: Logger

    /// A server for an engine, which it shuts down when it ends.
    public init(engine: Engine, configuration: APIServerConfiguration, logger: Logger = Logger(label: "apus")) {
        service = APIService(engine: engine, configuration: configuration)
        self.logger = logger
    }

    /// The event loop that a server runs on.
    public static func makeEventLoop() -> any EventLoop { MultiThreadedEventLoopGroup(numberOfThreads: 1).next() }

    /// Hands an engine's events to the event loop, which then wakes once a step:
    /// for ``EngineConfiguration/deliver``.
    public static func delivery(
        on loop: any EventLoop
    ) -> @Sendable (_ deliveries: @escaping @Sendable () -> Void) -> Void {
        { deliveries in loop.execute(deliveries) }
    }

    /// The application, for tests that call it without a socket or run it on one of theirs.
    package func application(on loop: any EventLoop, onRunning: @escaping @Sendable (Int) async -> Void = { _ in })
        throws -> some ApplicationProtocol
    {
        let configuration = service.configuration
        let http = HTTP1Channel.Configuration(
            additionalChannelHandlers: [
                ConnectionGuard(bodyTimeout: configuration.bodyTimeout, writeTimeout: configuration.writeTimeout)
            ],
            idleTimeout: TimeAmount(configuration.idleTimeout),
            httpDecoderConfiguration: .init(
                maxHeaderFieldSize: configuration.maxHeaderBytes, maxHeaderListSize: configuration.maxHeaderBytes,
                maxHeaderFieldCount: 100))
        return Application(
            responder: APIRouter(service: service).router().buildResponder(),
            server: try Self.tlsConfiguration(configuration).map {
                try .tls(.http1(configuration: http), tlsConfiguration: $0)
            }
                ?? .http1(configuration: http),
            configuration: ApplicationConfiguration(
                address: .hostname(configuration.host, port: configuration.port), serverName: "apus",
                backlog: 1024,
                availableConnectionsDelegate: MaximumAvailableConnections(configuration.maxConnections)),
            onServerRunning: { channel in await onRunning(channel.localAddress?.port ?? configuration.port) },
            eventLoopGroupProvider: .shared(loop), logger: logger)
    }

    /// Serves until the process is told to stop (SIGTERM or SIGINT, a second one of which ends it at once): new requests are
    /// refused, running ones get the drain time-out to finish and are then ended with an error event.
    /// - Parameters:
    ///   - loop: from ``makeEventLoop()``.
    ///   - onRunning: called with the port when the server listens.
    /// - Throws: when the address cannot be had, or certificate and key cannot be read.
    public func run(on loop: any EventLoop, onRunning: @escaping @Sendable (Int) async -> Void = { _ in }) async throws
    {
        let application = try application(on: loop, onRunning: onRunning)
        let drain = DrainService(service: service, logger: logger)
        var settings = ServiceGroupConfiguration(
            // The group stops services from the last to the first: requests end before connections do.
            services: [.init(service: application), .init(service: drain)],
            gracefulShutdownSignals: [.sigterm, .sigint], logger: logger)
        // Answers that ended with the engine need a moment to be written.
        settings.maximumGracefulShutdownDuration = service.configuration.drainTimeout + .seconds(5)
        let group = ServiceGroup(configuration: settings)
        defer { service.engine.shutdown() }
        try await withTaskExecutorPreference(EventLoopTaskExecutor(loop)) { try await group.run() }
    }

    static func tlsConfiguration(_ configuration: APIServerConfiguration) throws -> TLSConfiguration? {
        guard let tls = configuration.tls else { return nil }
        let certificates = try NIOSSLCertificate.fromPEMFile(tls.certificate).map {
            NIOSSLCertificateSource.certificate($0)
        }
        let key = try NIOSSLPrivateKey(file: tls.key, format: .pem)
        return .makeServerConfiguration(certificateChain: certificates, privateKey: .privateKey(key))
    }
}

/// Lets running requests end before the server stops listening.
private struct DrainService: Service {
    let service: APIService
    let logger: Logger

    func run() async throws {
        try await gracefulShutdown()
        let timeout = service.configuration.drainTimeout
        logger.info("stopping: new requests are refused, running ones have \(timeout) to finish")
        service.beginDraining()
        let engine = service.engine
        await withTaskGroup(of: Void.self) { group in
            group.addTask {
                // Whoever asks again does not want to wait.
                for await signal in await UnixSignalsSequence(trapping: .sigint, .sigterm) {
                    exit(signal == .sigint ? 130 : 143)
                }
                await engine.drain()
            }
            group.addTask { await engine.drain() }
            group.addTask {
                try? await Task.sleep(for: timeout)
                // Ends the requests, and with them the drain.
                engine.shutdown()
            }
            await group.next()
            group.cancelAll()
            engine.shutdown()
        }
    }
}
