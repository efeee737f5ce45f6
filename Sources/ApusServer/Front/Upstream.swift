import HTTPTypes
import NIOCore
import NIOHTTP1
import NIOHTTPTypes
import NIOHTTPTypesHTTP1
import NIOPosix

/// One request to a group's first rank, over a connection of its own.
enum Upstream {
    /// A piece of its answer.
    enum Part: Sendable {
        case head(HTTPResponse)
        case body(ByteBuffer)
    }

    /// The connection closed before the answer was whole.
    struct BrokenOff: Error {}

    /// Sends a request.
    /// - Returns: the answer, whose end without an error is a whole answer; dropping it closes the connection.
    static func answer(
        to request: HTTPRequest, body: ByteBuffer, port: Int, on loop: any EventLoop
    ) -> AsyncThrowingStream<Part, any Error> {
        let (stream, continuation) = AsyncThrowingStream.makeStream(of: Part.self)
        let task = Task {
            do {
                let channel = try await ClientBootstrap(group: loop)
                    .connectTimeout(.seconds(5))
                    .channelOption(.socketOption(.tcp_nodelay), value: 1)
                    .connect(host: "127.0.0.1", port: port) { channel in
                        channel.eventLoop.makeCompletedFuture {
                            try channel.pipeline.syncOperations.addHTTPClientHandlers()
                            try channel.pipeline.syncOperations.addHandler(HTTP1ToHTTPClientCodec())
                            return try NIOAsyncChannel<HTTPResponsePart, HTTPRequestPart>(
                                wrappingChannelSynchronously: channel)
                        }
                    }
                try await channel.executeThenClose { inbound, outbound in
                    try await outbound.write(.head(request))
                    if body.readableBytes > 0 { try await outbound.write(.body(body)) }
                    try await outbound.write(.end(nil))
                    for try await part in inbound {
                        switch part {
                        case .head(let head): continuation.yield(.head(head))
                        case .body(let bytes): continuation.yield(.body(bytes))
                        case .end:
                            continuation.finish()
                            return
                        }
                    }
                    throw BrokenOff()
                }
            } catch { continuation.finish(throwing: error) }
        }
        continuation.onTermination = { _ in task.cancel() }
        return stream
    }
}
