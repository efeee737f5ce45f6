import ApusSynchronization
import CApusMPI

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// MPI in this process: its library, the lock around its calls, and the thread that goes on with background collectives.
///
/// MPI is initialised as MPI_THREAD_SERIALIZED, so that no library has to lock by itself; and a collective in the background
/// needs somebody who calls MPI while others compute.
final class MPIRuntime: Sendable {
    /// The library.
    let library: MPILibrary
    /// Seconds that a collective may take before it counts as failed.
    let timeout: Double
    private let calls = Locked(())
    private let background = Monitor(Background())

    private struct Background {
        var queue: [MPIPending] = []
        var hasThread = false
    }

    /// Initialises MPI.
    /// - Throws: ``CommunicationError`` where it fails, or allows no calls from several threads.
    init(_ library: MPILibrary, timeout: Double) throws(CommunicationError) {
        self.library = library
        self.timeout = timeout
        var threads: Int32 = 0
        try library.check("MPI_Init_thread", library.functions.initialize(&threads))
        guard threads != 0 else {
            throw .launch("\(library.version): expected MPI_THREAD_SERIALIZED, found a library for one thread")
        }
    }

    /// Calls MPI, alone.
    func call(_ name: String, _ body: (apus_mpi) -> Int32) throws(CommunicationError) {
        let code = calls.withLock { _ in body(library.functions) }
        try library.check(name, code)
    }

    /// Ends MPI; nothing of it is called afterwards.
    func finalize() throws(CommunicationError) { try call("MPI_Finalize") { $0.finalize() } }

    /// Puts a collective behind those that wait for the background thread.
    func enqueue(_ pending: MPIPending) throws(CommunicationError) {
        let needsThread = background.withLock { state in
            state.queue.append(pending)
            defer { state.hasThread = true }
            return !state.hasThread
        }
        if needsThread, !SystemThread.start({ [self] in goOn() }) {
            throw .call("pthread_create", reason: "no thread for collectives in the background")
        }
        background.signal()
    }

    /// Sleep between two looks at transfers that are not over: short beside a bucket of gradients, long enough to leave the
    /// core to those who compute.
    private static let pause: UInt32 = 50

    /// The background thread: of each communicator one collective at a time, in the order they came. What two ranks send each
    /// other waits for nobody: a send may end only when its receiver has begun.
    private func goOn() {
        var running: [MPIPending] = []
        while true {
            let isIdle = running.isEmpty
            let fresh: [MPIPending]
            if isIdle {
                fresh = background.wait { state in
                    if state.queue.isEmpty { return nil }
                    defer { state.queue = [] }
                    return state.queue
                }
            } else {
                fresh = background.withLock { state in
                    defer { state.queue = [] }
                    return state.queue
                }
            }
            running += fresh
            var seen: Set<ObjectIdentifier> = []
            let before = running.count
            running.removeAll { pending in
                (pending.isPointToPoint || seen.insert(ObjectIdentifier(pending.communicator)).inserted)
                    && pending.advance()
            }
            if running.count == before, !running.isEmpty { usleep(Self.pause) }
        }
    }
}

/// A collective in the background.
final class MPIPending: PendingCollective, Sendable {
    let communicator: MPICommunicator
    private let task: MPITask
    private let outcome = Monitor(Result<Void, CommunicationError>?.none)

    init(_ task: MPITask, _ communicator: MPICommunicator) {
        self.task = task
        self.communicator = communicator
    }

    /// Whether two ranks alone take part.
    var isPointToPoint: Bool { [.send, .receive].contains(task.collective.kind) }

    /// Goes on; called by the background thread alone.
    /// - Returns: whether it is over.
    func advance() -> Bool {
        let result: Result<Void, CommunicationError>
        do {
            guard try task.advance() else { return false }
            result = .success(())
        } catch {
            result = .failure(error)
        }
        outcome.withLock { $0 = result }
        outcome.signalAll()
        communicator.ended()
        return true
    }

    func wait() throws(CommunicationError) {
        let limit = communicator.runtime.timeout
        guard let result = outcome.wait(seconds: limit, { $0 }) else {
            throw .timedOut(task.collective.kind.rawValue, seconds: limit)
        }
        try result.get()
    }
}
