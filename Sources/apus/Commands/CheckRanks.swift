import ApusDistributed
import ApusModels
import ApusTensor
import ApusText
import ApusTraining
import ArgumentParser

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// `apus check ranks`: the connection between ranks.
struct CheckRanks: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ranks",
        abstract: "Check training and time the collectives between ranks.",
        discussion: """
            Started by mpirun or srun: every collective on every type over odd sizes, against what it must give; small models \
            trained by all ranks, which share batches or a model that is cut over them, and by one alone, which must learn the \
            same; then the time of all-reduces. With --device cuda \
            over NCCL, a GPU a rank, also small models of all variants that decode cut over the ranks, whose logits are held \
            against those of one GPU; started by mpirun, by apus launch, or by whatever sets RANK, WORLD_SIZE, LOCAL_RANK, \
            MASTER_ADDR and MASTER_PORT. \
            --fault makes one rank die, stop, come late, or fail, to see how the others take it.

            EXAMPLES:
              mpirun -n 2 apus check ranks
              mpirun -n 4 --oversubscribe apus check ranks --json
              mpirun -n 2 apus check ranks --fault die --rank 1
              apus launch -n 2 apus check ranks --device cuda
            """)

    /// What a rank can do wrong.
    enum Fault: String, ExpressibleByArgument, CaseIterable {
        case die, stop, late, fail
    }

    @Option(help: "What the ranks compute on: cpu or cuda.") var device = ComputeDevice.cpu
    @Flag(help: "Print a JSON object.") var json = false
    @Option(help: "What goes wrong: die, stop, late or fail.") var fault: Fault?
    @Option(help: "On which rank it goes wrong.") var rank = 0
    @Option(help: "Seed of the models that decode, and of their prompts.") var seed: UInt64 = 1
    @Option(help: "What is checked: collectives, training or decoding; may be given several times, all by default.")
    var only: [Part] = []

    /// What is checked.
    enum Part: String, ExpressibleByArgument, CaseIterable {
        case collectives, training, decoding
    }

    func run() throws {
        let gpu = try Ranks.gpu(on: device)
        try Ranks.run(on: gpu?.stream) { job in
            let world = job.world.onHost
            if let fault, world.rank == rank { try make(fault, job) }
            let parts = only.isEmpty ? Part.allCases : only
            var (outcome, part) = (CommunicationCheck.Outcome(), CommunicationCheck.Outcome())
            if parts.contains(.collectives) {
                var check = CommunicationCheck(world)
                outcome = try check.run()
                let half = try world.split(color: world.rank % 2, key: world.rank)
                var partCheck = CommunicationCheck(half)
                part = try partCheck.run()
            }
            let isDecoding = parts.contains(.decoding) && gpu != nil && world.size > 1
            let decoding = isDecoding ? try checkDecoding(job) : []
            let training = parts.contains(.training) ? try checkTraining(job, on: gpu ?? CPUBackend(threads: 1)) : []
            let rows = try CommunicationBenchmark(job.world, stream: gpu?.stream).run()
            var failures = outcome.failures + part.failures
            failures += decoding.flatMap { model in model.failures.map { "\(model.name), decoding: \($0)" } }
            failures += training.filter { !$0.isExpected }.map {
                "training with \($0.attention), the ranks sharing \($0.sharing): \($0.steps) steps from a loss of \($0.firstLoss) to \($0.lastLoss), of all ranks "
                    + "\($0.lossDifference) apart, moments \($0.momentDifference)"
            }
            if world.rank == 0 {
                try Terminal.out(
                    json
                        ? object(job, outcome, part, training, decoding, rows)
                        : table(job, outcome, part, training, rows))
            }
            guard let first = failures.first else { return }
            job.fail(first)
        }
    }

    private func checkTraining(
        _ job: DistributedJob, on backend: any DifferentiableBackend
    ) throws -> [RankTrainingCheck.Outcome] {
        let check = RankTrainingCheck(job.world, on: backend)
        return try job.during("checking training") {
            try [RecipeAttention.gqa, .gla].map { try check.run($0) }
                + (job.world.size > 1 && check.canCut ? RecipeAttention.allCases : []).map {
                    try check.run($0, sharing: .model)
                }
        }
    }

    private func checkDecoding(_ job: DistributedJob) throws -> [GPURanksCheck.Outcome] {
        let check = try GPURanksCheck(job.world, seed: seed)
        // What is compiled first takes as long as it does on each rank.
        return try job.during("checking decoders") {
            try GPURanksCheck.shapes.map { name, configuration in
                let model = try check.run(name, configuration)
                for failure in model.failures.prefix(4) {
                    Terminal.error("rank \(job.world.rank): \(name), decoding: \(failure)\n")
                }
                guard job.world.rank == 0, !json else { return model }
                try Terminal.out(
                    "\(model.name), decoding with sums by \(model.readsPeers ? "peer memory" : "NCCL"): \(model.rows) rows of "
                        + "logits, those of one GPU at most \(scientific(model.worstError)) apart; \(model.equalDraws) of "
                        + "\(model.draws) tokens chosen alike\n")
                return model
            }
        }
    }

    private func make(_ fault: Fault, _ job: DistributedJob) throws {
        switch fault {
        case .die: kill(getpid(), SIGKILL)
        case .stop: kill(getpid(), SIGSTOP)
        case .late: sleep(3600)
        case .fail: throw ValidationError("a fault was asked for")
        }
    }

    private func table(
        _ job: DistributedJob, _ outcome: CommunicationCheck.Outcome, _ part: CommunicationCheck.Outcome,
        _ training: [RankTrainingCheck.Outcome], _ rows: [CommunicationBenchmark.Row]
    ) -> String {
        var text =
            "\(job.world.size) ranks over \(job.transport): \(outcome.cases) cases as expected, \(part.cases) in halves\n"
        for model in training {
            text +=
                "\(model.attention), ranks sharing \(model.sharing == .model ? "the model" : "batches"): \(model.steps) training "
                + "steps from a loss of \(fixed(model.firstLoss, 3)) to "
                + "\(fixed(model.lastLoss, 3)), those of one rank alone at most \(fixed(model.lossDifference, 7)) apart\n"
        }
        text += "| all-reduce bytes | microseconds | GB/s |\n|---|---|---|\n"
        for row in rows {
            text += "| \(row.bytes) | \(fixed(row.seconds * 1e6, 1)) | \(fixed(row.bytesPerSecond / 1e9, 3)) |\n"
        }
        return text
    }

    private func object(
        _ job: DistributedJob, _ outcome: CommunicationCheck.Outcome, _ part: CommunicationCheck.Outcome,
        _ training: [RankTrainingCheck.Outcome], _ decoding: [GPURanksCheck.Outcome],
        _ rows: [CommunicationBenchmark.Row]
    ) -> String {
        let value: JSONValue = [
            "ranks": .integer(Int64(job.world.size)), "transport": .string(job.transport),
            "cases": .integer(Int64(outcome.cases)), "partCases": .integer(Int64(part.cases)),
            "training": .array(
                training.map {
                    [
                        "attention": .string($0.attention), "sharing": .string($0.sharing.rawValue),
                        "steps": .integer(Int64($0.steps)),
                        "firstLoss": .double($0.firstLoss), "lastLoss": .double($0.lastLoss),
                        "lossDifference": .double($0.lossDifference),
                        "momentDifference": .double($0.momentDifference),
                    ]
                }),
            "decoding": .array(
                decoding.map {
                    [
                        "name": .string($0.name), "readsPeers": .bool($0.readsPeers), "rows": .integer(Int64($0.rows)),
                        "worstError": .double($0.worstError),
                        "draws": .integer(Int64($0.draws)), "equalDraws": .integer(Int64($0.equalDraws)),
                    ]
                }),
            "allReduce": .array(
                rows.map { ["bytes": .integer(Int64($0.bytes)), "seconds": .double($0.seconds)] }),
        ]
        return value.serialized() + "\n"
    }
}
