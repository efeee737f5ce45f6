import HTTPTypes
import NIOCore
import NIOHTTPTypes

/// Watches one connection for clients that vanish, send slowly, or do not read.
///
/// - A request whose body has not come within the body time-out is answered with 408 where no answer has begun, and the
///   connection is closed.
/// - A client that leaves what was sent to it unread for the write time-out loses its connection, so that what waits for it
///   stays bounded.
/// - A client that closes the connection, or its side of it, while it is owed an answer has left: the connection is closed and
///   ``onClose(_:)``'s handler runs.
///
/// All methods run on the connection's event loop.
final class ConnectionGuard: ChannelDuplexHandler, RemovableChannelHandler {
    typealias InboundIn = HTTPRequestPart
    typealias InboundOut = HTTPRequestPart
    typealias OutboundIn = HTTPResponsePart
    typealias OutboundOut = HTTPResponsePart

    private static let sendBufferBytes: SocketOptionValue = 256 << 10

    private let bodyTimeout: TimeAmount
    private let writeTimeout: TimeAmount
    private var body: Scheduled<Void>?
    private var stall: Scheduled<Void>?
    private var owedAnswers = 0
    private var hasBegunAnswer = false
    private var isClosed = false
    private var closeHandler: (@Sendable () -> Void)?

    init(bodyTimeout: Duration, writeTimeout: Duration) {
        self.bodyTimeout = TimeAmount(bodyTimeout)
        self.writeTimeout = TimeAmount(writeTimeout)
    }

    /// Sets what runs when the client leaves, at once where it has left already; nil takes it back.
    func onClose(_ handler: (@Sendable () -> Void)?) {
        closeHandler = handler
        if isClosed { handler?() }
    }

    func handlerAdded(context: ChannelHandlerContext) {
        // What the system would grow to megabytes for each client that does not read.
        try? context.channel.syncOptions?.setOption(.socketOption(.so_sndbuf), value: Self.sendBufferBytes)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch unwrapInboundIn(data) {
        case .head:
            owedAnswers += 1
            body = schedule(bodyTimeout, context) { $0.bodyIsLate($1) }
        case .body: break
        case .end:
            body?.cancel()
            body = nil
        }
        context.fireChannelRead(data)
    }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        switch unwrapOutboundIn(data) {
        case .head: hasBegunAnswer = true
        case .body: break
        case .end:
            hasBegunAnswer = false
            owedAnswers -= 1
        }
        context.write(data, promise: promise)
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        stall?.cancel()
        stall = context.channel.isWritable ? nil : schedule(writeTimeout, context) { $1.close(promise: nil) }
        context.fireChannelWritabilityChanged()
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if let event = event as? ChannelEvent, event == .inputClosed, owedAnswers > 0 {
            context.close(promise: nil)
            return
        }
        context.fireUserInboundEventTriggered(event)
    }

    func channelInactive(context: ChannelHandlerContext) {
        isClosed = true
        handlerRemoved(context: context)
        closeHandler?()
        closeHandler = nil
        context.fireChannelInactive()
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        body?.cancel()
        stall?.cancel()
        body = nil
        stall = nil
    }

    private func schedule(
        _ delay: TimeAmount, _ context: ChannelHandlerContext,
        _ action: @escaping (ConnectionGuard, ChannelHandlerContext) -> Void
    ) -> Scheduled<Void> {
        context.eventLoop.assumeIsolated().scheduleTask(in: delay) { action(self, context) }
    }

    private func bodyIsLate(_ context: ChannelHandlerContext) {
        if !hasBegunAnswer {
            let error = APIError(
                status: .requestTimeout, message: "the request's body did not come in time",
                type: "invalid_request_error", code: "timeout")
            let bytes = ByteBuffer(string: error.json.serialized())
            let head = HTTPResponse(
                status: error.status,
                headerFields: [
                    .contentType: "application/json", .contentLength: String(bytes.readableBytes), .connection: "close",
                ])
            context.write(wrapOutboundOut(.head(head)), promise: nil)
            context.write(wrapOutboundOut(.body(bytes)), promise: nil)
            context.writeAndFlush(wrapOutboundOut(.end(nil)), promise: nil)
        }
        context.close(promise: nil)
    }
}
