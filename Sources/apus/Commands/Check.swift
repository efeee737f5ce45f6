import ApusAttention
import ApusTensor
import ApusText
import ArgumentParser

/// `apus check`: what computes, held against slow and exact twins.
struct Check: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Check tensor operations, the GPU's attention and decoder, and the connection between ranks.",
        subcommands: [CheckTensor.self, CheckAttention.self, CheckDecoder.self, CheckRanks.self])
}

extension AttentionCheck.Family: ExpressibleByArgument {}

/// `apus check attention`.
struct CheckAttention: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "attention",
        abstract: "Hold the GPU's attention kernels against float64 on random cases.",
        discussion: """
            Families: latent (MLA, GLA), tied (GTA), grouped (MHA, MQA, GQA), fp8 (latent and tied over an FP8 cache), \
            append (new tokens into the cache). Needs a Hopper GPU. Fails when a case does.

            EXAMPLES:
              apus check attention
              apus check attention --family fp8 --cases 20 --seed 7
            """)

    @Option(help: "Families: latent, tied, grouped, fp8, append (repeat for several); all by default.")
    var family: [AttentionCheck.Family] = []
    @Option(help: "Random cases a family.") var cases = 200
    @Option(help: "Seed of the cases; another one each time by default.") var seed: UInt64?
    @Flag(help: "Print a JSON array with an object a family.") var json = false

    func validate() throws {
        guard (1...100_000).contains(cases) else {
            throw ValidationError("--cases: expected an integer from 1 to 100000, found \(cases)")
        }
    }

    func run() throws {
        let check = try AttentionCheck(device: CUDADevice.device())
        var failed = false
        var objects: [JSONValue] = []
        for family in family.isEmpty ? AttentionCheck.Family.allCases : family {
            let seed = self.seed ?? UInt64.random(in: 0...UInt64(UInt32.max))
            let outcome = try check.run(family, cases: cases, seed: seed)
            failed = failed || !outcome.failures.isEmpty
            if json {
                objects.append(object(outcome, seed: seed))
                continue
            }
            var line =
                "\(outcome.failures.isEmpty ? "ok    " : "FAILED") \(family.rawValue): "
                + "\(cases - outcome.failures.count) of \(cases) random cases, worst relative error "
                + "\(scientific(outcome.worstError))"
            if outcome.hostCases > 0 {
                line += ", naive kernel in \(outcome.hostCases) cases \(scientific(outcome.worstNaiveError))"
            }
            try Terminal.out(line + " (seed \(seed))\n")
            for failure in outcome.failures.prefix(8) { try Terminal.out("       \(failure)\n") }
        }
        if json { try Terminal.out(JSONValue.array(objects).serialized() + "\n") }
        if failed { throw ExitCode.failure }
    }

    private func object(_ outcome: AttentionCheck.Outcome, seed: UInt64) -> JSONValue {
        [
            "family": .string(outcome.family.rawValue), "cases": .integer(Int64(outcome.cases)),
            "failures": .array(outcome.failures.map { .string($0) }), "worstError": .double(outcome.worstError),
            "naiveCases": .integer(Int64(outcome.hostCases)), "worstNaiveError": .double(outcome.worstNaiveError),
            "seed": .integer(Int64(clamping: seed)),
        ]
    }
}
