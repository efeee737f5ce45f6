import HTTPTypes
import Hummingbird
import NIOCore

/// The routes of the API and what runs around them.
struct APIRouter {
    let service: APIService
    private(set) var methods: [String: [HTTPRequest.Method]] = [:]
    private typealias Handler = @Sendable (Request, APIContext) async throws -> Response
    private var handlers: [(method: HTTPRequest.Method, path: String, handler: Handler)] = []

    init(service: APIService) {
        self.service = service
        addStatus()
        addGeneration()
        addFiles()
    }

    private mutating func add(_ method: HTTPRequest.Method, _ path: String, _ handler: @escaping Handler) {
        handlers.append((method, path, handler))
        methods[path, default: []].append(method)
    }

    private mutating func addStatus() {
        let status = StatusRoutes(service: service)
        add(.get, "/health") { _, _ in .json(status.health()) }
        add(.get, "/ready") { _, _ in .json(try status.ready()) }
        add(.get, "/version") { _, _ in .json(status.version()) }
        add(.get, "/metrics") { _, _ in status.metrics() }
        add(.get, "/v1/models") { _, _ in .json(status.models()) }
        add(.get, "/v1/models/**") { _, context in
            // Names of models can have slashes in them, written as such or as %2F.
            let name = context.parameters.getCatchAll().joined(separator: "/").replacing("%2F", with: "/")
            return .json(try status.model(named: name))
        }
    }

    private mutating func addGeneration() {
        let completions = CompletionRoute(service: service)
        add(.post, "/v1/completions") { try await completions.respond($0, $1) }
        let chat = ChatRoute(service: service)
        add(.post, "/v1/chat/completions") { try await chat.respond($0, $1) }
        let vectors = VectorRoutes(service: service)
        add(.post, "/v1/embeddings") { try await vectors.embeddings($0, $1) }
        add(.post, "/v1/score") { try await vectors.scores($0, $1) }
        let tokens = TokenRoutes(service: service)
        add(.post, "/tokenize") { try await tokens.tokenize($0, $1) }
        add(.post, "/detokenize") { try await tokens.detokenize($0, $1) }
    }

    private mutating func addFiles() {
        let page = ByteBuffer(bytes: PackageResources.page_html)
        add(.get, "/") { _, _ in
            Response(
                status: .ok,
                headers: [
                    .contentType: "text/html; charset=utf-8",
                    .contentSecurityPolicy:
                        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
                        + "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'",
                ], body: ResponseBody(byteBuffer: page))
        }
        let description = ByteBuffer(bytes: PackageResources.openapi_json)
        add(.get, "/openapi.json") { _, _ in
            Response(
                status: .ok, headers: [.contentType: "application/json"], body: ResponseBody(byteBuffer: description))
        }
    }

    /// The router.
    func router() -> Router<APIContext> {
        let router = Router(context: APIContext.self, options: .autoGenerateHeadEndpoints)
        router.add(middleware: RequestMiddleware(service: service, methods: methods))
        for (method, path, handler) in handlers {
            router.on(RouterPath(path), method: method) { try await handler($0, $1) }
        }
        return router
    }
}
