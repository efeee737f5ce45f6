import ApusEngine
import ApusText
import HTTPTypes

extension APIError {
    /// What became of a request whose client did not wait for the answer; seen in logs only.
    static let clientLeft = APIError(
        status: HTTPResponse.Status(code: 499, reasonPhrase: "Client Closed Request"),
        message: "the client closed the connection before the answer", type: "client_error")

    /// Why the engine refused or ended a request.
    init(_ error: EngineError) {
        switch error {
        case .queueFull, .queueTokensFull: self = .unavailable("\(error)", code: "queue_full", retryAfter: 1)
        case .draining, .shutDown: self = .unavailable("\(error)", code: "shutting_down", retryAfter: 5)
        case .prompt(.promptTooLong):
            self = .invalid("\(error)", parameter: "prompt", code: "context_length_exceeded")
        case .prompt: self = .invalid("\(error)", parameter: "prompt")
        case .sampling(.parameter(let name, _, _)):
            self = .invalid("\(error)", parameter: Self.field(ofSampling: name))
        case .sampling, .notFinite, .step, .weights: self = .fault("\(error)")
        case .outOfRange(let name, _, _): self = .invalid("\(error)", parameter: name)
        case .constraintDeadEnd: self = .invalid("\(error)", parameter: "response_format")
        case .unsupported: self = .invalid("\(error)", parameter: "model", code: "unsupported")
        case .deadlineExceeded: self = .timedOut("\(error)")
        case .cancelled: self = .clientLeft
        }
    }

    private static func field(ofSampling name: String) -> String {
        String(name.map { $0 == " " || $0 == "-" ? "_" : $0 })
    }

    /// The same error with another name for the prompt's field.
    func naming(prompt field: String) -> APIError {
        var copy = self
        if copy.parameter == "prompt" { copy.parameter = field }
        return copy
    }
}
