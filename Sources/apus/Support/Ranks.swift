import ApusDistributed
import ApusTensor
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

    /// A stream of this rank's GPU: the one with the rank's number among the ranks of its machine.
    static func stream(on device: ComputeDevice) throws -> CUDAStream? {
        guard device == .cuda else { return nil }
        let environment = try LaunchEnvironment.detect(ProcessInfo.processInfo.environment)
        return try CUDAStream(device: CUDADevice.device(environment.localRank))
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
    static func run(_ body: (DistributedJob) async throws -> Void) async throws {
        let job = try join()
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
