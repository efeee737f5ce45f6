import Synchronization

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Turns Ctrl-C into a flag that generation looks at between tokens.
enum Interrupt {
    private static let count = Atomic<Int>(0)

    /// Starts listening; a second Ctrl-C that nobody takes ends the process.
    static func listen() {
        signal(SIGINT) { _ in
            if Interrupt.count.wrappingAdd(1, ordering: .relaxed).newValue > 2 { _exit(130) }
        }
    }

    /// Whether Ctrl-C was pressed since ``clear()``.
    static var isPending: Bool { count.load(ordering: .relaxed) > 0 }

    /// Forgets what was pressed.
    static func clear() { count.store(0, ordering: .relaxed) }
}
