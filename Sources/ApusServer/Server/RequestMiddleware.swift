import HTTPTypes
import Hummingbird
import Logging
import NIOHTTP1

/// Runs around every route: names the request, lets it in, turns errors into OpenAI's shape, counts, and writes the log.
struct RequestMiddleware: RouterMiddleware {
    typealias Context = APIContext

    private let service: APIService
    private let keys: APIKeys
    private let origins: CrossOrigin
    /// Methods by path, for the answer to a method that a path does not take.
    private let methods: [String: [HTTPRequest.Method]]

    init(service: APIService, methods: [String: [HTTPRequest.Method]]) {
        self.service = service
        self.methods = methods
        keys = APIKeys(service.configuration.apiKeys)
        origins = CrossOrigin(allowed: service.configuration.allowedOrigins)
    }

    func handle(
        _ request: Request, context: APIContext, next: (Request, APIContext) async throws -> Response
    ) async throws -> Response {
        let id = RequestNames.requestID(request.headers[.requestID])
        let trace = request.headers[.traceParent].flatMap { RequestNames.isTraceParent($0) ? $0 : nil }
        context.record.update {
            $0.id = id
            $0.traceParent = trace
            $0.traceState = trace == nil ? nil : request.headers[.traceState]
        }
        var response: Response
        do {
            if let preflight = origins.preflight(request) {
                response = preflight
            } else {
                if APIKeys.guards(request.uri.path) { try keys.check(request.headers[.authorization]) }
                response = try await next(request, context)
            }
        } catch let error as APIError {
            response = fail(error, context)
        } catch let error as HTTPError {
            response = fail(unrouted(request, error), context)
        } catch let error as HTTPParserError {
            // The connection answers that itself.
            throw error
        } catch let error as any HTTPResponseError {
            response = try error.response(from: request, context: context)
        } catch is CancellationError {
            response = fail(.clientLeft, context)
        } catch {
            context.logger.error("unexpected error: \(error)")
            response = fail(.fault("the server met an unexpected error"), context)
        }
        origins.add(to: &response, for: request)
        response.headers[.requestID] = id
        if let trace {
            response.headers[.traceParent] = trace
            response.headers[.traceState] = context.record.snapshot.traceState
        }
        let status = response.status.code
        let log = RequestLog(service: service, context: context, request: request, status: status)
        if context.record.snapshot.isStream {
            response.body = Self.logging(response.body, log)
        } else {
            log.write()
        }
        return response
    }

    private func fail(_ error: APIError, _ context: APIContext) -> Response {
        context.record.update {
            $0.failure = error
            $0.isStream = false
        }
        return error.response
    }

    /// The error for a path or a method that no route has.
    private func unrouted(_ request: Request, _ error: HTTPError) -> APIError {
        guard error.status == .notFound else {
            return APIError(
                status: error.status, message: error.body ?? error.status.reasonPhrase, type: "invalid_request_error")
        }
        let path = request.uri.path
        guard let allowed = methods[path] else { return .notFound("no route at \(request.method) \(path)") }
        let names = allowed.map(\.rawValue)
        return APIError(
            status: .methodNotAllowed,
            message: "\(path): expected \(names.joined(separator: " or ")), found \(request.method)",
            type: "invalid_request_error", allowedMethods: names)
    }

    private static func logging(_ body: ResponseBody, _ log: RequestLog) -> ResponseBody {
        ResponseBody(contentLength: body.contentLength) { writer in
            defer { log.write() }
            try await body.write(writer)
        }
    }
}

extension HTTPField.Name {
    static let requestID = HTTPField.Name("x-request-id")!
    static let traceParent = HTTPField.Name("traceparent")!
    static let traceState = HTTPField.Name("tracestate")!
}
