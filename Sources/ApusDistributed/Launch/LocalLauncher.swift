import Synchronization

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Starts the ranks of a job on this machine, where no mpirun or srun does: each with RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR
/// and MASTER_PORT.
///
/// The first rank has this process's standard input, the others none. When one ends with an error, the others get some
/// seconds to end by themselves and are ended then. SIGTERM is handed on; SIGINT, which a terminal sends to all, is not.
public struct LocalLauncher {
    /// A rank that cannot be started.
    public struct StartError: Error, CustomStringConvertible {
        /// What was to be started.
        public let program: String
        /// The system's reason.
        public let reason: String

        /// One sentence.
        public var description: String { "cannot start \(program): \(reason)" }
    }

    private static let wasTold = Atomic<Bool>(false)
    /// Seconds for ranks to end after another one has ended with an error, and after SIGTERM.
    private static let patience = 10.0

    private let ranks: Int
    private let command: [String]
    private var running: [Int: pid_t] = [:]

    /// Ranks that all run a command, whose program is looked for on the PATH.
    public init(ranks: Int, command: [String]) {
        precondition(ranks > 0 && !command.isEmpty, "\(ranks) ranks of \(command)")
        self.ranks = ranks
        self.command = command
    }

    /// Starts them and waits until all have ended.
    /// - Returns: the exit code of the first that ended with one that is not 0, 128 and the signal's number where one ended it; 0
    ///   where there was none.
    /// - Throws: ``StartError``.
    public mutating func run() throws -> Int32 {
        signal(SIGTERM) { _ in LocalLauncher.wasTold.store(true, ordering: .relaxed) }
        signal(SIGINT, SIG_IGN)
        // Free now; whoever takes it before the first rank does makes the job fail with a message.
        let port = try LinkSocket.listening(port: 0, onLoopback: true).port
        for rank in 0..<ranks {
            do { running[rank] = try start(rank, port: port) } catch {
                for process in running.values { kill(process, SIGKILL) }
                throw error
            }
        }
        var result: Int32 = 0
        var end: ContinuousClock.Instant?
        while !running.isEmpty {
            let isEnding = end != nil
            for (rank, process) in running {
                var status: Int32 = 0
                guard waitpid(process, &status, WNOHANG) == process else { continue }
                running[rank] = nil
                let signal = status & 0x7f
                let code = signal != 0 ? 128 + signal : status >> 8 & 0xff
                if code != 0, result == 0 { result = code }
            }
            let wasTold = Self.wasTold.exchange(false, ordering: .relaxed)
            if wasTold { for process in running.values { kill(process, SIGTERM) } }
            if !isEnding, wasTold || result != 0 { end = .now + .seconds(Self.patience) }
            if let end, ContinuousClock.now > end { for process in running.values { kill(process, SIGKILL) } }
            usleep(20_000)
        }
        return result
    }

    private func start(_ rank: Int, port: Int) throws(StartError) -> pid_t {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        if rank > 0 { posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0) }
        // What this process does not listen to, the ranks do.
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var usual = sigset_t()
        sigemptyset(&usual)
        sigaddset(&usual, SIGINT)
        posix_spawnattr_setsigdefault(&attributes, &usual)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGDEF))
        let own = [
            "RANK=\(rank)", "LOCAL_RANK=\(rank)", "WORLD_SIZE=\(ranks)", "MASTER_ADDR=127.0.0.1", "MASTER_PORT=\(port)",
        ]
        var environment = own.map { strdup($0) }
        var words = command.map { strdup($0) }
        defer { for text in environment.prefix(own.count) + words { free(text) } }
        let names = own.map { $0.prefix { $0 != "=" } + "=" }
        var place = environ
        while let entry = place.pointee {
            let text = String(cString: entry)
            if !names.contains(where: { text.hasPrefix($0) }) { environment.append(entry) }
            place += 1
        }
        environment.append(nil)
        words.append(nil)
        var process = pid_t()
        let code = posix_spawnp(&process, command[0], &actions, &attributes, &words, &environment)
        guard code == 0 else { throw StartError(program: command[0], reason: String(cString: strerror(code))) }
        return process
    }
}
