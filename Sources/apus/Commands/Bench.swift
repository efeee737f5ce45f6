import ApusEngine
import ApusModels
import ApusText
import ArgumentParser

/// `apus bench`: measurements.
struct Bench: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Measure speed.",
        subcommands: [
            BenchDecode.self, BenchEngine.self, BenchServe.self, BenchSteps.self, BenchTrain.self,
            BenchAttention.self,
        ])
}

/// `apus bench decode`: prefill and generation speed of a model.
struct BenchDecode: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "decode",
        abstract: "Measure prompt and generation speed of a model.",
        discussion: """
            Random tokens, nothing sampled, one untimed run first. With --batch 1 generation starts from an empty cache, as \
            in llama-bench; with more sequences it goes on from the prompts, as in llama-batched-bench.

            EXAMPLES:
              apus bench decode model.gguf --threads 2 --prompt 512 --generate 128
              apus bench decode model.gguf --threads 2 --prompt 128 --generate 128 --batch 16 --json
              mpirun -n 2 apus bench decode ./model --threads 1 --batch 16 --tensor-parallel 2
            """)

    @OptionGroup var model: ModelOptions
    @Option(help: "Prompt tokens of each sequence; 0 leaves the prompt out.") var prompt = 512
    @Option(help: "Tokens to generate for each sequence; 0 leaves generation out.") var generate = 128
    @Option(help: "Sequences.") var batch = 1
    @Option(help: "Timed runs; the median is printed.") var repeats = 3
    @Flag(help: "Print a JSON array with an object a row.") var json = false
    @OptionGroup var ranks: RankOptions

    func validate() throws {
        for (name, value, least) in [
            ("prompt", prompt, 0), ("generate", generate, 0), ("batch", batch, 1), ("repeats", repeats, 1),
        ] where value < least || value > 1 << 24 {
            throw ValidationError("--\(name): expected an integer from \(least) to \(1 << 24), found \(value)")
        }
    }

    func run() throws { try ranks.run(measure) }

    private func measure(_ context: RankContext) throws {
        let decoder = try model.loadDecoder(context)
        let benchmark = try DecodeBenchmark(
            decoder, prompt: prompt, generate: generate, batch: batch, cacheType: try model.cacheDType())
        let rows = try benchmark.run(repeats: repeats)
        if json {
            try context.out(JSONValue.array(rows.map(object)).serialized() + "\n")
            return
        }
        try context.out("| test | batch | tokens/s | lowest | highest |\n|---|---|---|---|---|\n")
        for row in rows {
            let test = row.prompt > 0 ? "prompt \(row.prompt)" : "generation \(row.generate)"
            try context.out(
                "| \(test) | \(row.batch) | \(fixed(row.tokensPerSecond, 2)) | \(fixed(row.samples.min() ?? 0, 2)) "
                    + "| \(fixed(row.samples.max() ?? 0, 2)) |\n")
        }
        guard context.isShared else { return }
        for row in rows {
            let test = row.prompt > 0 ? "prompt" : "generation"
            try context.out(
                "\(test): \(fixed(row.communicationBytes, 1)) bytes a token between ranks, "
                    + "\(fixed(row.expectedCommunicationBytes, 1)) by the formula\n")
        }
    }

    private func object(_ row: DecodeBenchmark.Row) -> JSONValue {
        var object = JSONObject()
        object["prompt"] = .integer(Int64(row.prompt))
        object["generate"] = .integer(Int64(row.generate))
        object["batch"] = .integer(Int64(row.batch))
        object["tokensPerSecond"] = .double(row.tokensPerSecond)
        object["samples"] = .array(row.samples.map { .double($0) })
        if row.expectedCommunicationBytes > 0 {
            object["communicationBytesPerToken"] = .double(row.communicationBytes)
            object["expectedCommunicationBytesPerToken"] = .double(row.expectedCommunicationBytes)
        }
        return .object(object)
    }
}
