import ApusModels
import ApusTensor
import ApusText
import ArgumentParser

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

/// `apus check decoder`.
struct CheckDecoder: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "decoder",
        abstract: "Hold decoding on the GPU against decoding on the CPU in float32.",
        discussion: """
            Ragged prompts of 1 to 200 sequences, then steps: logits are compared, and steps that follow each other on \
            the GPU with single ones. Without a model: small ones with random weights, one of each kind that the kernels \
            tell apart, and decoders that take their weights from models in training: against decoders of their checkpoints, \
            and against the training form. Needs a Hopper GPU. Fails when a comparison does.

            EXAMPLES:
              apus check decoder
              apus check decoder ./SmolLM2-135M --seed 7
              apus check decoder --only experts
            """)

    @Argument(help: "A GGUF file, a safetensors file beside its config.json, or a Hugging Face directory.")
    var model: String?
    @Option(help: "Without a model: of the small ones those whose name has this in it, and none in training.")
    var only: String?
    @Option(help: "Seed of prompts and weights; another one each time by default.") var seed: UInt64?
    @Flag(help: "Print a JSON array with an object a batch.") var json = false

    func validate() throws {
        guard let only else { return }
        if model != nil { throw ValidationError("--only: expected no model beside it") }
        if !GPUDecoderCheck.shapes.contains(where: { $0.name.contains(only) }) {
            let names = GPUDecoderCheck.shapes.map(\.name).joined(separator: "; ")
            throw ValidationError("--only: expected a part of one of these names, found \(only): \(names)")
        }
    }

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
            for shape in GPUDecoderCheck.shapes where only.map(shape.name.contains) ?? true {
                try report(check.run(shape))
            }
        }
        let trained = model == nil && only == nil ? try checkTrained(seed: seed) : []
        if json { try Terminal.out(JSONValue.array(outcomes.map(object) + trained.map(object)).serialized() + "\n") }
        guard outcomes.allSatisfy(\.failures.isEmpty), trained.allSatisfy(\.failures.isEmpty) else {
            throw ExitCode.failure
        }
    }

    private func checkTrained(seed: UInt64) throws -> [GPUTrainedDecoderCheck.Outcome] {
        let folder = FileManager.default.temporaryDirectory.appending(path: "apus-check-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        let check = GPUTrainedDecoderCheck(device: try CUDADevice.device(), seed: seed, folder: folder.path)
        return try GPUTrainedDecoderCheck.shapes.map { name, configuration in
            let outcome = try check.run(name, configuration)
            guard !json else { return outcome }
            try Terminal.out(
                "\(outcome.failures.isEmpty ? "ok    " : "FAILED") \(name), weights in training: log-probabilities of "
                    + "\(outcome.tokens) drawn tokens differ by \(scientific(outcome.meanDifference)) in the mean, 99 of 100 "
                    + "by at most \(scientific(outcome.differenceOf99)); chi-square of \(outcome.draws) draws "
                    + "\(fixed(outcome.chiSquare, 1)) of \(outcome.degrees) (seed \(seed))\n")
            for failure in outcome.failures.prefix(4) { try Terminal.out("       \(failure)\n") }
            return outcome
        }
    }

    private func object(_ outcome: GPUTrainedDecoderCheck.Outcome) -> JSONValue {
        [
            "model": .string(outcome.name), "tokens": .integer(Int64(outcome.tokens)),
            "meanDifference": .double(outcome.meanDifference), "differenceOf99": .double(outcome.differenceOf99),
            "draws": .integer(Int64(outcome.draws)), "chiSquare": .double(outcome.chiSquare),
            "degrees": .integer(Int64(outcome.degrees)),
            "failures": .array(outcome.failures.map { .string($0) }),
        ]
    }

    private func object(_ outcome: GPUDecoderCheck.Outcome) -> JSONValue {
        [
            "model": .string(outcome.name), "sequences": .integer(Int64(outcome.sequences)),
            "rows": .integer(Int64(outcome.rows)), "worstError": .double(outcome.worstError),
            "failures": .array(outcome.failures.map { .string($0) }),
        ]
    }
}
