import ApusDistributed
import ApusEngine
import ApusModels
import ApusTensor
import ArgumentParser
import CApusKernels

/// Flags of commands that cut a model over ranks.
struct RankOptions: ParsableArguments {
    @Option(help: "Ranks that the model is cut over; they are started by mpirun or srun. All of them by default.")
    var tensorParallel: Int?

    func validate() throws {
        if let tensorParallel, tensorParallel < 1 {
            throw ValidationError("--tensor-parallel: expected an integer >= 1, found \(tensorParallel)")
        }
    }

    /// Runs `body` on every rank of the job, with what cuts a model over them.
    /// - Parameter device: what each of them computes on.
    func run(on device: ComputeDevice = .cpu, _ body: (RankContext) throws -> Void) throws {
        let gpu = try Ranks.sharedGPU(on: device)
        try Ranks.run(on: try gpu.map { try CUDAStream(device: $0) }) { job in
            let size = job.world.size
            guard tensorParallel ?? size == size else {
                throw ValidationError(
                    "--tensor-parallel \(tensorParallel ?? 0): expected as many ranks, found \(size); start them with "
                        + "mpirun -n \(tensorParallel ?? 0) apus ...")
            }
            try body(RankContext(job: job, device: gpu.map { .cuda($0.ordinal) } ?? device.device))
        }
    }
}

/// One rank of a command.
struct RankContext {
    let job: DistributedJob
    /// What it computes on.
    var device = Device.cpu

    /// Whether this is the rank that reads and prints.
    var isFirst: Bool { job.world.rank == 0 }
    /// Whether there are others.
    var isShared: Bool { job.world.size > 1 }

    /// The ranks that a model is cut over; nil for a process alone.
    /// - Throws: where the model cannot be cut, or ranks see another model.
    func cut(_ checkpoint: any Checkpoint) throws -> TensorParallel? {
        guard isShared else { return nil }
        let ranks = try TensorParallel(checkpoint.configuration, over: job.world)
        try job.agree(on: "the model", "\(checkpoint.name) \(try checkpoint.fingerprint())")
        if let stream = job.world.stream { try job.agree(on: "the GPU", stream.device.name) }
        // Ranks draw tokens each for themselves, from logits of the same bits.
        try job.agree(on: "the CPU's instruction set", String(cString: apus_cpu_features()))
        if isFirst, let note = ranks.sharding.duplicationNote { Terminal.error("\(note)\n") }
        return ranks
    }

    /// Loads work that takes its time, while the others wait.
    func loading<R>(_ body: () throws -> R) rethrows -> R { try job.during("loading the model", body) }

    /// What the first rank reads or draws, on all ranks.
    func shared(_ text: () throws -> String) throws -> String {
        guard isShared else { return try text() }
        let bytes = try job.world.broadcast(bytes: isFirst ? Array(try text().utf8) : [])
        return String(decoding: bytes, as: UTF8.self)
    }

    /// Prints on the first rank.
    func out(_ text: String) throws { if isFirst { try Terminal.out(text) } }
}
