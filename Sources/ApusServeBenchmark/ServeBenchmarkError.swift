/// What can keep a measurement of a server from being made.
public enum ServeBenchmarkError: Error, Equatable, CustomStringConvertible {
    /// The server's address is none.
    case address(String, reason: String)
    /// The server could not be reached at all.
    case connection(address: String, reason: String)
    /// The server answered a request of the measurement's own with an error.
    case response(request: String, status: Int, body: String)
    /// The workload file is not what it should be.
    case workload(file: String, line: Int, expected: String, found: String)
    /// A number is out of its range.
    case parameter(name: String, expected: String, found: String)
    /// Something that the workload needs was not given.
    case missing(String)

    /// One sentence for people.
    public var description: String {
        switch self {
        case .address(let text, let reason):
            "expected a server's address such as http://127.0.0.1:8000, found '\(text)': \(reason)"
        case .connection(let address, let reason): "\(address): \(reason)"
        case .response(let request, let status, let body): "\(request) was answered with status \(status): \(body)"
        case .workload(let file, let line, let expected, let found):
            "\(file), line \(line): expected \(expected), found \(found)"
        case .parameter(let name, let expected, let found): "\(name): expected \(expected), found \(found)"
        case .missing(let what): what
        }
    }
}
