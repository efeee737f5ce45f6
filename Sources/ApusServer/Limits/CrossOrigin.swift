import HTTPTypes
import Hummingbird

/// Lets pages of other origins call the server (CORS).
struct CrossOrigin: Sendable {
    /// Origins; "*" is any, none allows none.
    let allowed: [String]

    /// The answer to the question that a browser asks before a request; nil where this is no such question.
    func preflight(_ request: Request) -> Response? {
        guard request.method == .options, origin(request) != nil,
            request.headers[.accessControlRequestMethod] != nil
        else { return nil }
        return Response(
            status: .noContent,
            headers: [
                .accessControlAllowMethods: "GET, POST, OPTIONS",
                .accessControlAllowHeaders: "authorization, content-type, x-request-id, traceparent, tracestate",
                .accessControlMaxAge: "600",
            ])
    }

    /// Adds what a browser must read before it hands a response to a page.
    func add(to response: inout Response, for request: Request) {
        guard !allowed.isEmpty else { return }
        if !allowed.contains("*") { response.headers[.vary] = "origin" }
        guard let origin = origin(request) else { return }
        response.headers[.accessControlAllowOrigin] = allowed.contains("*") ? "*" : origin
        response.headers[.accessControlExposeHeaders] = "x-request-id, retry-after"
    }

    private func origin(_ request: Request) -> String? {
        guard let origin = request.headers[.origin] else { return nil }
        return allowed.contains("*") || allowed.contains(origin) ? origin : nil
    }
}
