import ApusDistributed
import ArgumentParser

/// `apus launch`: ranks on this machine's GPUs, without MPI.
struct Launch: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Start the ranks of a command on this machine's GPUs.",
        discussion: """
            Starts a program several times, each as a rank: with RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, which \
            is how ranks on GPUs find each other. Ranks on CPUs talk over MPI and are started by mpirun or srun, and so are \
            ranks on several machines. Ends with the first error of a rank.

            EXAMPLES:
              apus launch -n 2 apus check ranks --device cuda
              apus launch -n 8 apus train gla.yaml training.device=cuda
            """)

    @Option(name: .customShort("n"), help: "How many ranks.") var ranks: Int
    @Argument(parsing: .captureForPassthrough, help: "The program and its arguments.") var command: [String]

    func validate() throws {
        guard (1...1024).contains(ranks) else {
            throw ValidationError("-n: expected an integer from 1 to 1024, found \(ranks)")
        }
    }

    func run() throws {
        var launcher = LocalLauncher(ranks: ranks, command: command)
        let code = try launcher.run()
        guard code == 0 else { throw ExitCode(code) }
    }
}
