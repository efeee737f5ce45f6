import ApusModels
import ApusTensor
import ArgumentParser

extension WeightFormat: ExpressibleByArgument {}

/// `apus convert IN OUT`.
struct Convert: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Convert a model between safetensors and GGUF.",
        discussion: """
            OUT ending in .gguf becomes one GGUF file, anything else a new folder as transformers saves it. Weights keep \
            their type unless --type names another; packed weights become float32 in safetensors. The tokenizer, the \
            chat template and the sampling defaults come along. OUT appears whole or not at all.

            EXAMPLES:
              apus convert SmolLM2-135M-Instruct model.gguf --type bf16
              apus convert model.gguf folder
            """)

    @Argument(help: "A GGUF file, a safetensors file beside its config.json, or a Hugging Face directory.")
    var input: String

    @Argument(help: "A path that ends in .gguf, or a folder that does not exist yet.")
    var output: String

    @Option(help: "Type of the matrices: kept, f32, bf16 or f16.")
    var type: WeightFormat = .kept

    @Option(name: .shortAndLong, help: "Threads; all usable cores by default.")
    var threads: Int?

    func validate() throws {
        if let threads, threads < 1 { throw ValidationError("--threads: expected an integer >= 1, found \(threads)") }
        if WeightFormat.quantised.contains(type) {
            throw ValidationError("--type: expected kept, f32, bf16 or f16, found \(type); see apus quantize")
        }
    }

    func run() throws {
        let progress = ProgressLine(label: "writing \(output)")
        defer { progress.end() }
        let converter = CheckpointConverter(
            try Checkpoints.open(input), format: type, backend: CPUBackend(threads: threads))
        let report =
            output.hasSuffix(".gguf")
            ? try converter.writeGGUF(to: output) { progress.update($0) }
            : try converter.writeHuggingFace(to: output) { progress.update($0) }
        progress.end()
        try Terminal.out(report.text(output))
    }
}

extension CheckpointConverter.Report {
    /// What was written, for people.
    func text(_ output: String) -> String {
        let types = totals.sorted { $0.value.byteCount > $1.value.byteCount }.map { type, total in
            "\(total.tensors) tensors \(type) (\(Self.megabytes(total.byteCount)) MB)"
        }
        let bits = 8 * Double(byteCount) / Double(max(parameterCount, 1))
        let hundredths = Int((bits * 100).rounded())
        var text =
            "\(output): \(types.joined(separator: ", ")), \(hundredths / 100).\(hundredths % 100 / 10)\(hundredths % 10) bits a weight\n"
        for note in notes { text += "note: \(note)\n" }
        return text
    }

    private static func megabytes(_ bytes: Int) -> String {
        let tenths = (bytes + 50_000) / 100_000
        return "\(tenths / 10).\(tenths % 10)"
    }
}
