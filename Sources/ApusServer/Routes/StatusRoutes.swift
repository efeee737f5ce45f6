import ApusText
import Hummingbird
import NIOCore

/// What says how the server is, and what it is.
struct StatusRoutes: Sendable {
    let service: APIService

    /// `GET /v1/models`.
    func models() -> JSONValue {
        ["object": "list", "data": .array(service.configuration.modelNames.map { entry($0) })]
    }

    /// `GET /v1/models/{model}`.
    func model(named name: String) throws(APIError) -> JSONValue {
        try service.checkModel(name)
        return entry(name)
    }

    private func entry(_ name: String) -> JSONValue {
        [
            "id": .string(name), "object": "model", "created": .integer(Int64(service.started)), "owned_by": "apus",
            "root": .string(service.configuration.modelNames[0]), "parent": nil,
            "max_model_len": .integer(Int64(service.context)),
        ]
    }

    /// `GET /health`: whether the process answers.
    func health() -> JSONValue { ["status": "ok"] }

    /// `GET /ready`: whether it takes requests.
    func ready() throws(APIError) -> JSONValue {
        guard !service.isDraining else {
            throw .unavailable("the server is about to stop", code: "shutting_down", retryAfter: 5)
        }
        return ["status": "ready"]
    }

    /// `GET /version`.
    func version() -> JSONValue { ["version": .string(service.configuration.version)] }

    /// `GET /metrics`.
    func metrics() -> Response {
        var text = MetricsText(service.engine.metrics(), model: service.configuration.modelNames[0])
        return Response(
            status: .ok, headers: [.contentType: "text/plain; version=0.0.4; charset=utf-8"],
            body: ResponseBody(byteBuffer: ByteBuffer(string: text.text(requests: service.counters.all))))
    }
}
