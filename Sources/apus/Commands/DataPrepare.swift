import ApusText
import ApusTraining
import ArgumentParser

/// `apus data prepare`: text to token shards.
struct DataPrepare: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "prepare", abstract: "Turn text into token shards for training.",
        discussion: """
            Reads plain text, JSON Lines (.jsonl, or --field), and either of them compressed with gzip or zstd. \
            Documents in text are separated by lines that hold nothing but the separator; a file without them is one \
            document. Run it again to go on after an interruption: finished shards are kept.

            EXAMPLES:
              apus data prepare train.txt.zst --validation valid.txt.zst --train-vocabulary 4096 --output books
              apus data prepare web-*.jsonl.gz --tokenizer SmolLM2/tokenizer.json --output web
            """)

    @Argument(help: "Files of text.") var files: [String]
    @Option(name: .shortAndLong, help: "The folder to write.") var output: String
    @Option(
        parsing: .upToNextOption,
        help: "Files of text held out for validation; without them, documents are drawn for it.")
    var validation: [String] = []
    @Option(help: "Share of the documents that is held out where there are no such files.")
    var validationFraction = 0.01
    @Option(help: "A tokenizer.json, a folder that holds one, or a GGUF file.") var tokenizer: String?
    @Option(help: ArgumentHelp("Train a byte-level BPE vocabulary of this size instead.", valueName: "size"))
    var trainVocabulary: Int?
    @Option(help: "The member of JSON Lines rows that holds the text; files are then read as JSON Lines.")
    var field: String?
    @Option(help: "The line between documents of a text file; an empty one makes each file one document.")
    var separator = "<|endoftext|>"
    @Option(help: "The token after each document; by default the separator's, or the tokenizer's end of text.")
    var endToken: String?
    @Option(help: "Seed of the draw of validation documents.") var seed = 0
    @Option(help: ArgumentHelp("Text in a shard, in MiB.", valueName: "MiB")) var shardSize = 64
    @Flag(help: "Print one JSON object.") var json = false

    func validate() throws {
        if (tokenizer == nil) == (trainVocabulary == nil) {
            throw ValidationError("expected either --tokenizer or --train-vocabulary")
        }
        if !(1...(1 << 20)).contains(shardSize) {
            throw ValidationError("--shard-size: expected 1 to \(1 << 20) MiB, found \(shardSize)")
        }
    }

    func run() throws {
        var preparation = DataPreparation(
            folder: output, sources: files,
            tokenizer: tokenizer.map { .file($0) } ?? .trained(size: trainVocabulary ?? 0))
        preparation.validationSources = validation
        preparation.validationFraction = validationFraction
        preparation.seed = seed
        preparation.layout = TextLayout(
            form: field == nil ? .byName : .jsonLines, separator: separator, field: field ?? "text")
        preparation.endToken = endToken
        preparation.shardByteCount = shardSize << 20
        let bar = PreparationBar()
        let manifest: TokenManifest
        do {
            defer { bar.end() }
            manifest = try preparation.run { bar.update($0) }
        }
        try report(manifest, bar.last)
    }

    private func report(_ manifest: TokenManifest, _ last: DataPreparation.Progress?) throws {
        let rate = last.map { Double($0.textBytes) / 1e6 / max($0.seconds, 1e-9) }
        if json {
            var object = JSONObject()
            object["folder"] = .string(output)
            object["vocabularySize"] = .integer(Int64(manifest.vocabularySize))
            object["textBytes"] = .integer(Int64(manifest.textByteCount))
            for split in TokenSplit.allCases {
                object["\(split.rawValue)Tokens"] = .integer(Int64(manifest.tokenCount(split)))
                object["\(split.rawValue)Documents"] = .integer(Int64(manifest.documentCount(split)))
            }
            if let rate { object["megabytesPerSecond"] = .double(rate) }
            return try Terminal.out(JSONValue.object(object).serialized() + "\n")
        }
        var text =
            "\(output): vocabulary \(manifest.vocabularySize), \(fixed(Double(manifest.textByteCount) / 1e6, 1)) MB of text\n"
        for split in TokenSplit.allCases {
            let tokens = manifest.tokenCount(split)
            text += "  \(split.rawValue): \(tokens) tokens, \(manifest.documentCount(split)) documents\n"
            if tokens == 0, split == .validation, validationFraction > 0 || !validation.isEmpty {
                text += "  no document was drawn for validation: give --validation, or a larger --validation-fraction\n"
            }
        }
        if let rate { text += "  \(fixed(rate, 1)) MB/s\n" } else { text += "  was already there\n" }
        try Terminal.out(text)
    }
}
