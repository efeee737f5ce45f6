import ApusEngine
import ApusModels
import ArgumentParser
import FoundationEssentials

/// `apus evaluate`: perplexity of a text.
struct Evaluate: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Measure a model's perplexity on a text.",
        discussion: """
            The protocol of llama-perplexity: the text is cut into windows of --window tokens, each is run alone (its first \
            token replaced by the beginning-of-sequence token where the model has one), and the second half is scored.

            EXAMPLES:
              apus evaluate SmolLM2.gguf --text book.txt --chunks 40
            """)

    @OptionGroup var model: ModelOptions
    @Option(help: "A UTF-8 text file.") var text: String
    @Option(help: "Windows to score; all by default.") var chunks: Int?
    @Option(help: "Tokens of a window.") var window = 512
    @Flag(help: "Print one JSON object.") var json = false

    func validate() throws {
        if window < 4 { throw ValidationError("--window: expected an integer >= 4, found \(window)") }
        if let chunks, chunks < 1 { throw ValidationError("--chunks: expected an integer >= 1, found \(chunks)") }
    }

    func run() throws {
        guard let data = FileManager.default.contents(atPath: text) else {
            throw ValidationError("--text: cannot read \(text)")
        }
        let languageModel = try model.load()
        let tokens = try data.withUnsafeBytes {
            try languageModel.tokenizer.encode(utf8: $0, addSpecialTokens: true, parseSpecialTokens: false)
        }
        let progress = ProgressLine(label: "scoring")
        defer { progress.end() }
        let result = try Perplexity.measure(
            languageModel, tokens: tokens, window: window, chunks: chunks, cacheType: try model.cacheDType()
        ) { progress.update($0) }
        if json {
            try Terminal.out(result.json + "\n")
        } else {
            try Terminal.out(
                "perplexity \(fixed(result.perplexity, 4)) +/- \(fixed(result.standardError, 4)) over \(result.scored) tokens "
                    + "in \(result.windows) windows of \(window)\n")
        }
    }
}
