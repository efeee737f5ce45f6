import Hummingbird
import Logging
import NIOCore
import Synchronization

/// What belongs to one request while it is answered.
struct APIContext: RequestContext {
    var coreContext: CoreRequestContextStorage
    /// The connection.
    let channel: any Channel
    /// What is known of the request, for its line in the log.
    let record = RequestRecord()

    init(source: ApplicationRequestContextSource) {
        coreContext = CoreRequestContextStorage(source: source)
        channel = source.channel
    }
}

/// What a request's line in the log says beside its path and status.
final class RequestRecord: Sendable {
    struct Contents {
        var id = ""
        var traceParent: String?
        var traceState: String?
        var usage: Usage?
        /// Whether the response's body is written after its handler has returned.
        var isStream = false
        var failure: APIError?
    }

    private let contents = Mutex(Contents())
    let start = ContinuousClock.now

    var snapshot: Contents { contents.withLock { $0 } }

    func update(_ change: (inout sending Contents) -> Void) { contents.withLock { change(&$0) } }
}
