/// What the launcher says about this process: mpirun of Open MPI or MPICH, srun, or anything that sets RANK and WORLD_SIZE
/// (torchrun and its like).
public struct LaunchEnvironment: Sendable, Equatable {
    /// Who started the process.
    public enum Launcher: String, Sendable {
        /// Nobody: one process.
        case none
        /// Open MPI's mpirun, or prun.
        case openMPI = "Open MPI's mpirun"
        /// MPICH's or Intel MPI's mpiexec.
        case mpich = "MPICH's mpiexec"
        /// srun with its PMIx or PMI-2 plugin.
        case slurm = "srun"
        /// RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.
        case variables = "RANK and WORLD_SIZE"
    }

    /// Who started the process.
    public var launcher: Launcher
    /// This process among all.
    public var rank: Int
    /// How many processes there are.
    public var size: Int
    /// This process among those of its machine: which GPU it takes.
    public var localRank: Int
    /// Where the ranks find rank 0, where the launcher says so.
    public var masterAddress: String?
    /// Port of rank 0.
    public var masterPort: Int?

    /// One process.
    public static let alone = LaunchEnvironment(launcher: .none, rank: 0, size: 1, localRank: 0)

    /// Whether several processes were started together.
    public var isDistributed: Bool { size > 1 }

    /// Reads the variables of the environment. MPI's own come first: mpirun inside a Slurm job sets both.
    /// - Throws: ``CommunicationError/launch(_:)`` where they contradict each other.
    public static func detect(_ environment: [String: String]) throws(CommunicationError) -> LaunchEnvironment {
        let variables = LaunchVariables(environment)
        if let found = try variables.launch(
            .openMPI, rank: ["OMPI_COMM_WORLD_RANK"], size: ["OMPI_COMM_WORLD_SIZE"],
            local: ["OMPI_COMM_WORLD_LOCAL_RANK"])
        {
            return found
        }
        // srun sets PMI_RANK (PMI-2) or PMIX_RANK, and its own names for the rest.
        if environment["SLURM_STEP_NUM_TASKS"] != nil,
            environment["PMI_RANK"] != nil || environment["PMIX_RANK"] != nil,
            let found = try variables.launch(
                .slurm, rank: ["SLURM_PROCID", "PMI_RANK", "PMIX_RANK"], size: ["SLURM_STEP_NUM_TASKS", "PMI_SIZE"],
                local: ["SLURM_LOCALID"])
        {
            return found
        }
        if let found = try variables.launch(
            .mpich, rank: ["PMI_RANK"], size: ["PMI_SIZE"], local: ["MPI_LOCALRANKID"])
        {
            return found
        }
        // RANK alone may be anybody's.
        if environment["WORLD_SIZE"] != nil,
            var found = try variables.launch(
                .variables, rank: ["RANK"], size: ["WORLD_SIZE"], local: ["LOCAL_RANK"])
        {
            found.masterAddress = environment["MASTER_ADDR"]
            found.masterPort = try variables.integer("MASTER_PORT", in: 1...65535)
            if found.size > 1, found.masterAddress == nil || found.masterPort == nil {
                throw .launch("WORLD_SIZE=\(found.size): expected MASTER_ADDR and MASTER_PORT too, found none")
            }
            // torchrun's agent listens on MASTER_PORT itself.
            if environment["TORCHELASTIC_USE_AGENT_STORE"] == "True" { found.masterPort! += 1 }
            return found
        }
        return .alone
    }
}

/// Numbers out of an environment.
private struct LaunchVariables {
    let environment: [String: String]

    init(_ environment: [String: String]) { self.environment = environment }

    func integer(_ name: String, in range: ClosedRange<Int>) throws(CommunicationError) -> Int? {
        guard let text = environment[name] else { return nil }
        guard let value = Int(text), range.contains(value) else {
            throw .launch("\(name): expected a number from \(range.lowerBound) to \(range.upperBound), found \(text)")
        }
        return value
    }

    private func first(_ names: [String]) throws(CommunicationError) -> (name: String, value: Int)? {
        for name in names { if let value = try integer(name, in: 0...1 << 24) { return (name, value) } }
        return nil
    }

    /// What a launcher's variables say; nil where it has set none.
    func launch(
        _ launcher: LaunchEnvironment.Launcher, rank: [String], size: [String], local: [String]
    ) throws(CommunicationError) -> LaunchEnvironment? {
        let (rank, size) = (try first(rank), (names: size, found: try first(size)))
        guard let rank else { return nil }
        guard let total = size.found else {
            throw .launch("\(rank.name)=\(rank.value): expected \(size.names[0]) too, found none")
        }
        guard rank.value < total.value else {
            throw .launch(
                "\(rank.name): expected a rank below \(total.name)=\(total.value), found \(rank.value)")
        }
        return LaunchEnvironment(
            launcher: launcher, rank: rank.value, size: total.value, localRank: try first(local)?.value ?? rank.value)
    }
}
