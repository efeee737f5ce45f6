import ApusDistributed
import ApusTensor
import ApusTraining
import ArgumentParser
import FoundationEssentials

/// The ranks that a launcher (mpirun, srun) started together, for commands that run on several.
enum Ranks {
    /// Joins them; a process that was started alone is a job of one.
    ///
    /// `APUS_RANK_TIMEOUT` are the seconds that a rank may be silent or late, `APUS_MPI_LIBRARY` is the path of an MPI library.
    /// - Parameter stream: of this rank's GPU; nil on CPUs.
    static func join(on stream: CUDAStream? = nil) throws -> DistributedJob {
        let variables = ProcessInfo.processInfo.environment
        var timeout = DistributedJob.defaultTimeout
        if let text = variables["APUS_RANK_TIMEOUT"] {
            guard let seconds = Double(text), (1...86400).contains(seconds) else {
                throw ValidationError("APUS_RANK_TIMEOUT: expected 1 to 86400 seconds, found \(text)")
            }
            timeout = seconds
        }
        return try DistributedJob.join(
            try .detect(variables), on: stream.map { .gpu($0) } ?? .cpus, version: Apus.configuration.version,
            library: variables["APUS_MPI_LIBRARY"], timeout: timeout)
    }

    /// This rank's GPU.
    static func gpu(on device: ComputeDevice) throws -> CUDABackend? {
        guard device == .cuda else { return nil }
        return try CUDABackend(ordinal: CUDADevice.ordinal(localRank: environment().localRank))
    }

    /// This rank's GPU, where a model is cut over several; nil on CPUs, and for a process alone.
    /// - Parameter first: the GPU of the first rank of this machine.
    static func sharedGPU(on device: ComputeDevice, from first: Int = 0) throws -> CUDADevice? {
        let environment = try environment()
        guard device == .cuda, environment.isDistributed else { return nil }
        return try CUDADevice.device(CUDADevice.ordinal(localRank: environment.localRank, from: first))
    }

    /// This rank's GPU, where ranks train a recipe on GPUs; nil for one process, and where the recipe cannot be read, which
    /// is said when all have come.
    static func gpu(for recipe: () throws -> Recipe) throws -> CUDABackend? {
        let environment = try environment()
        guard environment.isDistributed, let recipe = try? recipe() else { return nil }
        return try recipe.gpu(localRank: environment.localRank)
    }

    private static func environment() throws -> LaunchEnvironment {
        try .detect(ProcessInfo.processInfo.environment)
    }

    /// Joins them and runs `body`; an error of one ends all, named with its rank.
    static func run(on stream: CUDAStream? = nil, _ body: (DistributedJob) throws -> Void) throws {
        let job = try join(on: stream)
        do {
            try body(job)
            try job.finish()
        } catch {
            try give(up: job, error)
        }
    }

    /// As ``run(_:)``, for work that suspends.
    static func run(on stream: CUDAStream? = nil, _ body: (DistributedJob) async throws -> Void) async throws {
        let job = try join(on: stream)
        do {
            try await body(job)
            try job.finish()
        } catch {
            try give(up: job, error)
        }
    }

    private static func give(up job: DistributedJob, _ error: any Error) throws -> Never {
        if error is ExitCode { try? job.finish() }
        if error is ExitCode || job.world.size == 1 { throw error }
        job.fail(Apus.message(for: error))
    }
}
