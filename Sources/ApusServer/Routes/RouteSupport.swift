import ApusText
import HTTPTypes
import Hummingbird
import NIOCore

extension APIService {
    /// Bodies of at least this size are read and tokenised away from the event loop, which other streams need.
    private static let offLoopBytes = 32 << 10

    /// Reads a request's body and makes something of its members.
    /// - Throws: ``APIError``: 413 for a body above the limit, 400 for one that is wrong.
    func read<T: Sendable>(
        _ request: Request, _ make: @escaping @Sendable (RequestFields) throws(APIError) -> T
    ) async throws -> T {
        let limit = configuration.maxBodyBytes
        let tooLarge = APIError(
            status: .contentTooLarge, message: "the body: expected at most \(limit) bytes, found more",
            type: "invalid_request_error", code: "request_too_large")
        if let length = request.headers[.contentLength].flatMap({ Int($0) }), length > limit { throw tooLarge }
        let body: ByteBuffer
        do {
            body = try await request.body.collect(upTo: limit)
        } catch is NIOTooManyBytesError {
            throw tooLarge
        }
        return try await offLoop(size: body.readableBytes) { () throws(APIError) in
            try make(try Self.fields(body))
        }
    }

    private static func fields(_ body: ByteBuffer) throws(APIError) -> RequestFields {
        let result = body.withUnsafeReadableBytes { bytes in
            Result { () throws(APIError) in try RequestFields(body: bytes) }
        }
        return try result.get()
    }

    /// Does work that depends on a text: on this thread where it is small, elsewhere where it is large.
    func offLoop<T: Sendable>(
        size: Int, _ work: @escaping @Sendable () throws(APIError) -> T
    ) async throws -> T {
        guard size >= Self.offLoopBytes else { return try work() }
        return try await Task.detached { try work() }.value
    }
}

extension Response {
    /// A response of one JSON text.
    static func json(_ bytes: JSONBytes) -> Response {
        Response(status: .ok, headers: [.contentType: "application/json"], body: ResponseBody(byteBuffer: bytes.buffer))
    }

    /// A response of one JSON value.
    static func json(_ value: JSONValue) -> Response {
        var bytes = JSONBytes()
        bytes.value(value)
        return .json(bytes)
    }
}

extension APIContext {
    /// Sets what runs when the client leaves before its answer is complete; nil takes it back.
    func onClientLeaving(_ handler: (@Sendable () -> Void)?) async {
        let channel = channel
        @Sendable func set() {
            let watch = try? channel.pipeline.syncOperations.handler(type: ConnectionGuard.self)
            watch?.onClose(handler)
        }
        if channel.eventLoop.inEventLoop { set() } else { try? await channel.eventLoop.submit(set).get() }
    }
}
