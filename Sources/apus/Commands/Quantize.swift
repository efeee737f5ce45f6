import ApusModels
import ApusTensor
import ArgumentParser

/// `apus quantize IN OUT.gguf`.
struct Quantize: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Quantise a model's matrices into a GGUF file.",
        discussion: """
            Every block is searched for the scales of least squared error. Vectors and routers stay float32. With a 4-bit \
            type the head and the token embedding become q8_0 unless --pure; rows that are no whole number of blocks \
            fall back to q8_0, then to float32. OUT appears whole or not at all.

            EXAMPLES:
              apus quantize SmolLM2-135M-Instruct model.gguf --type q4_K
            """)

    @Argument(help: "A GGUF file, a safetensors file beside its config.json, or a Hugging Face directory.")
    var input: String

    @Argument(help: "The GGUF file to write.")
    var output: String

    @Option(help: "Type of the matrices: q8_0, q4_0, q4_1 or q4_K.")
    var type: WeightFormat

    @Flag(help: "The head and the token embedding too.")
    var pure = false

    @Option(name: .shortAndLong, help: "Threads; all usable cores by default.")
    var threads: Int?

    func validate() throws {
        if let threads, threads < 1 { throw ValidationError("--threads: expected an integer >= 1, found \(threads)") }
        guard WeightFormat.quantised.contains(type) else {
            throw ValidationError("--type: expected q8_0, q4_0, q4_1 or q4_K, found \(type); see apus convert")
        }
        guard output.hasSuffix(".gguf") else {
            throw ValidationError("OUT: expected a path that ends in .gguf, found \(output)")
        }
    }

    func run() throws {
        let progress = ProgressLine(label: "quantising \(input)")
        defer { progress.end() }
        let converter = CheckpointConverter(
            try Checkpoints.open(input), format: type, isPure: pure, backend: CPUBackend(threads: threads))
        let report = try converter.writeGGUF(to: output) { progress.update($0) }
        progress.end()
        try Terminal.out(report.text(output))
    }
}
