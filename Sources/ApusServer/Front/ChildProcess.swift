#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// A process that this one has started, with a pipe to its standard input: what closes when this process ends, however it
/// ends.
final class ChildProcess: Sendable {
    let identifier: pid_t
    private let input: Int32

    /// Starts a program, which is looked for on the PATH.
    /// - Throws: ``ChildError`` when it cannot be started.
    init(_ arguments: [String]) throws(ChildError) {
        var ends: [Int32] = [0, 0]
        guard pipe(&ends) == 0 else { throw ChildError(program: arguments[0], code: errno) }
        // The child has the reading end as its standard input alone, and other children have neither.
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, ends[0], 0)
        var words: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) } + [nil]
        defer { for word in words { free(word) } }
        var process = pid_t()
        let code = posix_spawnp(&process, arguments[0], &actions, nil, &words, environ)
        close(ends[0])
        guard code == 0 else {
            close(ends[1])
            throw ChildError(program: arguments[0], code: code)
        }
        identifier = process
        input = ends[1]
    }

    /// Waits until it has ended.
    /// - Returns: how it ended, for people.
    func wait() -> String {
        var status: Int32 = 0
        while waitpid(identifier, &status, 0) < 0, errno == EINTR {}
        close(input)
        let signal = status & 0x7f
        return signal != 0 ? "ended by signal \(signal)" : "ended with code \(status >> 8 & 0xff)"
    }

    /// Asks it to end.
    func end() { kill(identifier, SIGTERM) }
}

/// A program that cannot be started.
struct ChildError: Error, CustomStringConvertible {
    let program: String
    let code: Int32

    var description: String { "cannot start \(program): \(String(cString: strerror(code)))" }
}
