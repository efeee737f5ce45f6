import ApusModels
import ApusText
import ArgumentParser

/// `apus inspect FILE`.
struct Inspect: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show what is inside a model file: header, tensors, sizes, configuration.",
        discussion: """
            Takes a GGUF file, a safetensors file, an index of shards, or a Hugging Face folder. Reads headers only, \
            so it is quick on files of any size.

            EXAMPLES:
              apus inspect model.gguf
              apus inspect --json model.safetensors
            """)

    @Argument(help: "The file or folder.")
    var file: String

    @Flag(help: "Print one JSON object.")
    var json = false

    func run() throws {
        let summary = try FileSummary(path: file)
        try Terminal.out((json ? summary.json.serialized() : summary.text) + "\n")
    }
}
