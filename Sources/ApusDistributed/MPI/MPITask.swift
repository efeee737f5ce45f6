import ApusTensor
import CApusMPI

/// A collective as the transfers it consists of, one after the other, with work of our own between them.
///
/// Unchecked Sendable: one thread at a time advances it (the one that runs it, or the background thread), and calls of MPI
/// are made under the lock of ``MPIRuntime``.
final class MPITask: @unchecked Sendable {
    enum Stage {
        /// Starts a transfer; gives MPI's code.
        case transfer(_ name: String, (_ request: UnsafeMutablePointer<apus_mpi_request>) -> Int32)
        /// Work on what has come.
        case local(() -> Void)
    }

    let collective: Collective
    private let runtime: MPIRuntime
    // All of them are kept until the end: they hold the memory of the transfers.
    private let stages: [Stage]
    private var next = 0
    private let request: UnsafeMutablePointer<apus_mpi_request>
    private var running: String?

    init(_ collective: Collective, _ stages: [Stage], _ runtime: MPIRuntime) {
        self.collective = collective
        self.stages = stages
        self.runtime = runtime
        request = .allocate(capacity: 1)
        request.initialize(to: 0)
    }

    deinit { request.deallocate() }

    /// Goes on as far as it can without waiting.
    /// - Returns: whether the collective is over.
    func advance() throws(CommunicationError) -> Bool {
        while true {
            if let running {
                var done: Int32 = 0
                try runtime.call(running) { $0.test(request, &done) }
                if done == 0 { return false }
                self.running = nil
            }
            guard next < stages.count else { return true }
            next += 1
            switch stages[next - 1] {
            case .transfer(let name, let start):
                try runtime.call(name) { _ in start(request) }
                running = name
            case .local(let work): work()
            }
        }
    }
}
