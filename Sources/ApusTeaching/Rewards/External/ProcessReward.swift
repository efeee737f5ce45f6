import ApusSynchronization

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Rewards from another program, which speaks JSON Lines on its standard input and output.
///
/// For each prompt it reads a line `{"prompt": ..., "messages": [...], "answer": ..., "outputs": [...]}` and writes a line
/// `{"rewards": [...]}`. It is started once, by the shell, when it is first asked, and ended with the reward. A program that
/// does not answer in time, has died, or answers something else is an error, and is ended.
public final class ProcessReward: RewardFunction {
    /// See ``RewardFunction/name``.
    public let name: String
    private let command: String
    private let timeOut: Duration
    private let child = Locked<ChildProcess?>(nil)

    /// A reward by a command.
    /// - Parameter timeOut: for one prompt's outputs, the start of the program not counted apart.
    /// - Throws: ``RewardError/specification(_:expected:)`` for an empty command.
    public init(command: String, timeOut: Duration = .seconds(60)) throws {
        guard command.contains(where: { !$0.isWhitespace }) else {
            throw RewardError.specification("process:\(command)", expected: "process:COMMAND")
        }
        name = "process \(command)"
        self.command = command
        self.timeOut = timeOut
    }

    /// See ``RewardFunction/rewards(of:prompt:)``.
    public func rewards(of outputs: [String], prompt: RewardPrompt) throws -> [Double] {
        try child.withLock { child in
            let deadline = ContinuousClock.now + timeOut
            do {
                let running = try child ?? ChildProcess(command)
                child = running
                try running.channel.write(
                    Array((RewardExchange.question(outputs, prompt) + "\n").utf8), by: deadline)
                return try RewardExchange.rewards(try running.channel.line(by: deadline), outputs: outputs.count)
            } catch let failure as Channel.Failure {
                let problem: String
                switch failure {
                case .timeOut: problem = "expected an answer within \(timeOut), none came"
                case .closed: problem = "it ended without an answer\(child?.ending() ?? "")"
                case .system(let reason): problem = reason
                }
                child = nil
                throw RewardError.external(problem)
            } catch {
                // After a line that is no answer, later ones would belong to earlier questions.
                child = nil
                throw error
            }
        }
    }
}

/// A program started by the shell, its standard input and output joined to a channel. It is killed, with what it started, when
/// it is dropped.
private final class ChildProcess: Sendable {
    /// Unchecked by the compiler: the reward's lock is held around every use.
    nonisolated(unsafe) let channel: Channel
    private let identifier: pid_t
    private let status = Locked<Int32?>(nil)

    init(_ command: String) throws {
        let (channel, other) = try Channel.pair()
        defer { close(other) }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, other, 0)
        posix_spawn_file_actions_adddup2(&actions, other, 1)
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        // A group of its own, so that what the shell starts ends with it.
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETPGROUP))
        posix_spawnattr_setpgroup(&attributes, 0)
        var arguments: [UnsafeMutablePointer<CChar>?] = []
        for argument in ["sh", "-c", command] { arguments.append(strdup(argument)) }
        arguments.append(nil)
        defer { for argument in arguments { free(argument) } }
        var identifier = pid_t()
        let code = posix_spawn(&identifier, "/bin/sh", &actions, &attributes, &arguments, environ)
        guard code == 0 else {
            throw RewardError.external("the shell could not be started: \(String(cString: strerror(code)))")
        }
        self.identifier = identifier
        self.channel = channel
    }

    deinit {
        kill(-identifier, SIGKILL)
        if status.withLock({ $0 }) == nil {
            var code: Int32 = 0
            waitpid(identifier, &code, 0)
        }
    }

    /// How it ended, for messages; empty where it still runs.
    func ending() -> String {
        // A moment for the system to notice that it has gone, once its output has been closed.
        for _ in 0..<20 {
            var code: Int32 = 0
            if waitpid(identifier, &code, WNOHANG) == identifier {
                status.withLock { $0 = code }
                return code & 0x7f == 0 ? ", exit status \(code >> 8 & 0xff)" : ", killed by signal \(code & 0x7f)"
            }
            usleep(5000)
        }
        return ""
    }
}
