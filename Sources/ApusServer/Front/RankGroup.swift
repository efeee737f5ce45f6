import ApusSynchronization
import Logging

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Ranks that compute one copy of a model together: a job of a launcher, started again when it has ended.
final class RankGroup: Sendable {
    private struct State {
        var child: ChildProcess?
        var isReady = false
        var isStopping = false
        var open = 0
        var starts = 0
        var ending = "starting"
    }

    /// Which of the groups it is.
    let number: Int
    /// Where its first rank listens, on the loopback interface.
    let port: Int
    private let command: [String]
    private let logger: Logger
    private let state = Locked(State())

    init(number: Int, port: Int, command: [String], logger: Logger) {
        self.number = number
        self.port = port
        self.command = command
        self.logger = logger
    }

    /// Whether it takes requests.
    var isReady: Bool { state.withLock { $0.isReady } }
    /// Requests that it answers now.
    var open: Int { state.withLock { $0.open } }
    /// Why it takes none.
    var ending: String { state.withLock { $0.ending } }
    /// How often it was started.
    var starts: Int { state.withLock { $0.starts } }

    func began() { state.withLock { $0.open += 1 } }
    func ended() { state.withLock { $0.open -= 1 } }

    /// An answer of the group broke off: it gets no requests before it says again that it is ready.
    func brokeOff() { state.withLock { $0.isReady = false } }

    /// The first rank has answered that it is ready.
    func answered() { state.withLock { if $0.child != nil { $0.isReady = true } } }

    /// Starts the job, and again when it ends, until ``stop()``.
    /// - Throws: ``ChildError`` when the launcher cannot be started at all.
    func start() throws {
        let child = try ChildProcess(command)
        take(child)
        let started = SystemThread.start { [self] in supervise(child) }
        precondition(started, "no thread to watch the ranks")
    }

    private func take(_ child: ChildProcess) {
        state.withLock {
            $0.child = child
            $0.starts += 1
        }
        logger.info("group \(number): started \(command.joined(separator: " "))")
    }

    private func supervise(_ first: ChildProcess) {
        var child = first
        var pause: UInt32 = 1
        while true {
            let begin = ContinuousClock.now
            let ending = child.wait()
            let stops = state.withLock { state in
                state.isReady = false
                state.child = nil
                state.ending = ending
                return state.isStopping
            }
            if stops { return }
            // A job that ran for a while may start at once; one that does not get up waits longer and longer.
            pause = ContinuousClock.now - begin > .seconds(60) ? 1 : min(pause * 2, 60)
            logger.error("group \(number): its ranks \(ending); they are started again in \(pause) s")
            sleep(pause)
            if state.withLock({ $0.isStopping }) { return }
            do { child = try ChildProcess(command) } catch {
                logger.error("group \(number): \(error)")
                return
            }
            take(child)
        }
    }

    /// Ends the job for good.
    func stop() {
        let child = state.withLock { state in
            state.isStopping = true
            return state.child
        }
        child?.end()
    }

    /// A port that nobody listens on.
    static func freePort() -> Int {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(descriptor) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        return withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                bind(descriptor, address, size) == 0 && getsockname(descriptor, address, &size) == 0
            }
        } ? Int(UInt16(bigEndian: address.sin_port)) : 0
    }
}
