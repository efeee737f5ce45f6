/// What can go wrong between ranks.
public enum CommunicationError: Error, Equatable, CustomStringConvertible {
    /// An argument that no communicator takes.
    case invalid(_ what: String, expected: String, found: String)
    /// A library that is not there or does not suffice, in the words of the search.
    case library(String)
    /// The environment of the launcher, or what the library says about it, does not fit together.
    case launch(String)
    /// A call of the library failed.
    case call(_ name: String, reason: String)
    /// A collective did not end in time.
    case timedOut(_ what: String, seconds: Double)
    /// Ranks that do not agree, named.
    case disagreement(_ what: String, String)
    /// The connection over which ranks watch each other.
    case link(String)

    /// One sentence for people.
    public var description: String {
        switch self {
        case .invalid(let what, let expected, let found): "\(what): expected \(expected), found \(found)"
        case .library(let message), .launch(let message), .link(let message): message
        case .call(let name, let reason): "\(name) failed: \(reason)"
        case .timedOut(let what, let seconds): "\(what): not over after \(seconds) s"
        case .disagreement(let what, let ranks): "\(what): expected the same on all ranks, found \(ranks)"
        }
    }
}
