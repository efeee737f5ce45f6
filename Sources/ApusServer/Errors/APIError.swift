import ApusText
import HTTPTypes
import Hummingbird
import NIOCore

/// An error as a client sees it: an HTTP status and OpenAI's error object.
///
/// ```json
/// {"error": {"message": "temperature: expected a number from 0 to 2, found integer 3",
///            "type": "invalid_request_error", "param": "temperature", "code": null}}
/// ```
public struct APIError: Error, Sendable, Equatable, CustomStringConvertible {
    /// The HTTP status.
    public var status: HTTPResponse.Status
    /// What was expected, what was found, where.
    public var message: String
    /// OpenAI's class of error.
    public var type: String
    /// The field of the request that is wrong.
    public var parameter: String?
    /// A word for programs.
    public var code: String?
    /// Seconds after which trying again may help.
    public var retryAfter: Int?
    /// The methods that the path takes, where another was used.
    public var allowedMethods: [String] = []

    /// An error from its parts.
    public init(
        status: HTTPResponse.Status, message: String, type: String, parameter: String? = nil, code: String? = nil,
        retryAfter: Int? = nil, allowedMethods: [String] = []
    ) {
        self.status = status
        self.message = message
        self.type = type
        self.parameter = parameter
        self.code = code
        self.retryAfter = retryAfter
        self.allowedMethods = allowedMethods
    }

    /// A request that cannot be answered as it is: 400.
    public static func invalid(_ message: String, parameter: String?, code: String? = nil) -> APIError {
        APIError(
            status: .badRequest, message: message, type: "invalid_request_error", parameter: parameter, code: code)
    }

    /// A path, method or model that is not here: 404.
    static func notFound(_ message: String, parameter: String? = nil, code: String? = nil) -> APIError {
        APIError(
            status: .notFound, message: message, type: "invalid_request_error", parameter: parameter, code: code)
    }

    /// The queue is full, or the server is about to end: 503.
    static func unavailable(_ message: String, code: String, retryAfter: Int) -> APIError {
        APIError(
            status: .serviceUnavailable, message: message, type: "server_error", code: code, retryAfter: retryAfter)
    }

    /// A request ran out of time: 504.
    static func timedOut(_ message: String) -> APIError {
        APIError(status: .gatewayTimeout, message: message, type: "server_error", code: "timeout")
    }

    /// A fault of the server: 500.
    static func fault(_ message: String) -> APIError {
        APIError(status: .internalServerError, message: message, type: "server_error")
    }

    /// The status, the field and the message.
    public var description: String { "\(status.code) \(message)" }

    /// OpenAI's error object.
    public var json: JSONValue {
        [
            "error": [
                "message": .string(message), "type": .string(type),
                "param": parameter.map { .string($0) } ?? .null, "code": code.map { .string($0) } ?? .null,
            ]
        ]
    }
}

extension APIError {
    /// An error in a request's body: the place of a ``JSONError`` becomes the name of the field.
    init(_ error: JSONError) {
        switch error {
        case .missing(let path, let expected):
            let field = Self.field(path)
            self = .invalid("\(field ?? "body"): expected \(expected), found nothing", parameter: field)
        case .type(let path, let expected, let found):
            let field = Self.field(path)
            self = .invalid("\(field ?? "body"): expected \(expected), found \(found)", parameter: field)
        default: self = .invalid("the body is no valid JSON: \(error)", parameter: nil, code: "invalid_json")
        }
    }

    /// The name of the root of every request's body in the paths of ``JSONNode``.
    static let bodyName = "body"

    private static func field(_ path: String) -> String? {
        path.hasPrefix(bodyName + ": ") ? String(path.dropFirst(bodyName.count + 2)) : nil
    }
}

extension APIError: HTTPResponseError {
    /// The error as a whole response.
    public func response(from request: Request, context: some RequestContext) throws -> Response { response }

    var response: Response {
        var headers: HTTPFields = [.contentType: "application/json"]
        if let retryAfter { headers[.retryAfter] = String(retryAfter) }
        if !allowedMethods.isEmpty { headers[.allow] = allowedMethods.joined(separator: ", ") }
        if status == .unauthorized { headers[.wwwAuthenticate] = "Bearer" }
        return Response(
            status: status, headers: headers, body: ResponseBody(byteBuffer: ByteBuffer(string: json.serialized())))
    }
}
