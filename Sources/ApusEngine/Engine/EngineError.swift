/// Why an engine refuses a request or ends it without its result.
public enum EngineError: Error, Equatable, CustomStringConvertible {
    /// As many requests wait as may.
    case queueFull(requests: Int, limit: Int)
    /// As many prompt tokens wait as may.
    case queueTokensFull(tokens: Int, limit: Int)
    /// The prompt cannot be run.
    case prompt(GenerationError)
    /// A sampling parameter is out of range.
    case sampling(SamplingError)
    /// A number of the request or configuration is out of range.
    case outOfRange(name: String, expected: String, found: Int)
    /// The engine takes no requests any more.
    case draining
    /// The engine was shut down before the request had finished.
    case shutDown
    /// The request's deadline passed before it had finished.
    case deadlineExceeded
    /// The caller ended the request.
    case cancelled
    /// The model gave logits that are not finite.
    case notFinite(sample: Int, position: Int)
    /// No token of the vocabulary is allowed by the constraint, which is not complete.
    case constraintDeadEnd(sample: Int, position: Int)
    /// The step that the request was part of could not be run.
    case step(String)
    /// The model has no such output.
    case unsupported(String)
    /// New weights are of another model.
    case weights(String)

    /// One sentence for people.
    public var description: String {
        switch self {
        case .queueFull(let requests, let limit):
            "the queue is full: \(requests) requests wait, at most \(limit) may; try again later"
        case .queueTokensFull(let tokens, let limit):
            "the queue is full: with this request \(tokens) prompt tokens would wait, at most \(limit) may; try again later"
        case .prompt(let error): "\(error)"
        case .sampling(let error): "\(error)"
        case .outOfRange(let name, let expected, let found): "\(name): expected \(expected), found \(found)"
        case .draining: "the engine takes no new requests: it is about to stop"
        case .shutDown: "the engine was shut down before the request had finished"
        case .deadlineExceeded: "the request's deadline passed before it had finished"
        case .cancelled: "the request was cancelled"
        case .notFinite(let sample, let position):
            "the model's logits are not finite at token \(position) of sample \(sample)"
        case .constraintDeadEnd(let sample, let position):
            "the constraint allows no token at place \(position) of sample \(sample), and is not complete there"
        case .step(let reason): "the model could not be run: \(reason)"
        case .unsupported(let what): what
        case .weights(let what): "the new weights do not fit: \(what)"
        }
    }
}
