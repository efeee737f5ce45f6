import ApusModels
import ApusTensor
import ApusText
import ArgumentParser

/// `apus check decoder`.
struct CheckDecoder: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "decoder",
        abstract: "Hold decoding on the GPU against decoding on the CPU in float32.",
        discussion: """
            Ragged prompts of 1, 3, 10 and 40 sequences, then steps: logits are compared, and steps that follow each other on \
            the GPU with single ones. Without a model: small ones with random weights, one of each kind that the kernels \
            tell apart. Needs a Hopper GPU. Fails when a comparison does.

            EXAMPLES:
              apus check decoder
              apus check decoder ./SmolLM2-135M --seed 7
            """)

    @Argument(help: "A GGUF file, a safetensors file beside its config.json, or a Hugging Face directory.")
    var model: String?
    @Option(help: "Seed of prompts and weights; another one each time by default.") var seed: UInt64?
    @Flag(help: "Print a JSON array with an object a batch.") var json = false

    func run() throws {
        let seed = seed ?? UInt64.random(in: 0...UInt64(UInt32.max))
        let check = GPUDecoderCheck(device: try CUDADevice.device(), seed: seed)
        var outcomes: [GPUDecoderCheck.Outcome] = []
        func report(_ new: [GPUDecoderCheck.Outcome]) throws {
            outcomes += new
            guard !json else { return }
            for outcome in new {
                try Terminal.out(
                    "\(outcome.failures.isEmpty ? "ok    " : "FAILED") \(outcome.name), \(outcome.sequences) sequences: "
                        + "\(outcome.rows) rows of logits, worst relative error \(scientific(outcome.worstError)) "
                        + "(seed \(seed))\n")
                for failure in outcome.failures.prefix(4) { try Terminal.out("       \(failure)\n") }
            }
        }
        if let model {
            try report(check.run(Checkpoints.open(model)))
        } else {
            for (name, configuration) in GPUDecoderCheck.shapes { try report(check.run(name, configuration)) }
        }
        if json { try Terminal.out(JSONValue.array(outcomes.map(object)).serialized() + "\n") }
        if !outcomes.allSatisfy(\.failures.isEmpty) { throw ExitCode.failure }
    }

    private func object(_ outcome: GPUDecoderCheck.Outcome) -> JSONValue {
        [
            "model": .string(outcome.name), "sequences": .integer(Int64(outcome.sequences)),
            "rows": .integer(Int64(outcome.rows)), "worstError": .double(outcome.worstError),
            "failures": .array(outcome.failures.map { .string($0) }),
        ]
    }
}
