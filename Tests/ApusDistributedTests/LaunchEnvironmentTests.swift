import ApusDistributed
import Testing

@Suite struct LaunchEnvironmentTests {
    private func numbers(_ found: LaunchEnvironment) -> [Int] { [found.rank, found.size, found.localRank] }

    @Test func noLauncherIsOneProcess() throws {
        #expect(try LaunchEnvironment.detect(["PATH": "/bin", "RANK": "3"]) == .alone)
    }

    @Test func openMPIComesBeforeSlurmAroundIt() throws {
        let found = try LaunchEnvironment.detect([
            "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
            "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "PMIX_RANK": "0",
        ])
        #expect(found.launcher == .openMPI && numbers(found) == [3, 4, 1])
    }

    @Test func slurmAndHydraAreToldApart() throws {
        let slurm = try LaunchEnvironment.detect([
            "SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "PMIX_RANK": "5",
        ])
        #expect(slurm.launcher == .slurm && numbers(slurm) == [5, 8, 1])
        let hydra = try LaunchEnvironment.detect(["PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1"])
        #expect(hydra.launcher == .mpich && numbers(hydra) == [1, 2, 1])
        // A batch script has tasks, but is not one of them.
        #expect(try LaunchEnvironment.detect(["SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "4"]) == .alone)
    }

    @Test func variablesNameRankZero() throws {
        var variables = [
            "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "node7", "MASTER_PORT": "29500",
        ]
        var found = try LaunchEnvironment.detect(variables)
        #expect(found.launcher == .variables && found.masterAddress == "node7" && found.masterPort == 29500)
        variables["TORCHELASTIC_USE_AGENT_STORE"] = "True"
        found = try LaunchEnvironment.detect(variables)
        #expect(found.masterPort == 29501)
    }

    @Test(arguments: [
        (["OMPI_COMM_WORLD_RANK": "4", "OMPI_COMM_WORLD_SIZE": "4"], "expected a rank below"),
        (["OMPI_COMM_WORLD_RANK": "x", "OMPI_COMM_WORLD_SIZE": "4"], "found x"),
        (["PMI_RANK": "0"], "expected PMI_SIZE too"),
        (["RANK": "0", "WORLD_SIZE": "2"], "expected MASTER_ADDR and MASTER_PORT"),
        (["RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "70000"], "MASTER_PORT"),
    ])
    func contradictionsAreNamed(_ variables: [String: String], _ part: String) {
        #expect {
            try LaunchEnvironment.detect(variables)
        } throws: { error in
            "\(error)".contains(part)
        }
    }
}
