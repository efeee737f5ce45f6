import ApusEngine
import ApusText
import ArgumentParser
import FoundationEssentials

/// `apus bench engine`: the engine alone, without a server around it.
struct BenchEngine: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "engine",
        abstract: "Measure the serving engine alone, many requests at once.",
        discussion: """
            Every run submits all requests together: random prompts, greedy, ends of sequences ignored. Generation is timed \
            while every sequence decodes, output from the first submission to the last token. Processor time is of all \
            threads, prompts included. One untimed run first.

            EXAMPLES:
              apus bench engine model.gguf --threads 2 --concurrency 16 --prompt 128 --generate 128
              apus bench engine model.gguf --threads 2 --concurrency 1 --text edit.txt --speculation lookup
              apus launch -n 2 apus bench engine ./model --device cuda --concurrency 64
            """)

    @OptionGroup var model: ModelOptions
    @Option(help: "Requests at once.") var concurrency = 16
    @Option(help: "Prompt tokens of each request.") var prompt = 128
    @Option(help: "Tokens to generate for each request, at least 2.") var generate = 128
    @Option(help: "A text file that every request asks as a user's message, in place of random tokens.") var text:
        String?
    @Option(help: "Who drafts tokens: none, or lookup in the sequence itself.") var speculation = Drafting.none
    @Option(help: "A smaller model of the same vocabulary that drafts tokens.") var draftModel: String?
    @Option(help: "What computes steps: cpu or cuda.") var device = ComputeDevice.cpu
    @Option(help: "Timed runs; medians are printed.") var repeats = 3
    @Flag(help: "Print a JSON object.") var json = false
    @OptionGroup var ranks: RankOptions

    enum Drafting: String, CaseIterable, ExpressibleByArgument {
        case none
        case lookup
    }

    func validate() throws {
        for (name, value, least, most) in [
            ("concurrency", concurrency, 1, 4096), ("prompt", prompt, 1, 1 << 20), ("generate", generate, 2, 1 << 20),
            ("repeats", repeats, 1, 1000),
        ] where !(least...most).contains(value) {
            throw ValidationError("--\(name): expected an integer from \(least) to \(most), found \(value)")
        }
    }

    func run() throws { try ranks.run(on: device, measure) }

    private func measure(_ context: RankContext) throws {
        let model = try self.model.load(loadsWeights: device == .cpu, context)
        let prompt: EngineBenchmark.Prompt =
            if let text {
                .tokens(try model.promptTokens(try String(contentsOfFile: text, encoding: .utf8)))
            } else {
                .random(self.prompt)
            }
        let speculation: Speculation =
            if let draftModel {
                .draftModel(try LanguageModel.load(path: draftModel, backend: model.backend))
            } else {
                speculation == .lookup ? .promptLookup : .none
            }
        let cacheType = try self.model.cacheDType()
        guard context.isFirst else {
            let configuration = EngineBenchmark.configuration(
                prompt: prompt, generate: generate, concurrency: concurrency, cacheType: cacheType,
                speculation: speculation, device: context.device)
            return try context.loading { try EngineFollower(model, configuration) }.run()
        }
        let benchmark = try context.loading {
            try EngineBenchmark(
                model, prompt: prompt, generate: generate, concurrency: concurrency, cacheType: cacheType,
                speculation: speculation, device: context.device)
        }
        defer { benchmark.end() }
        let rows = try benchmark.run(repeats: repeats)
        let figures: [(key: String, label: String, digits: Int, values: [Double])] = [
            ("generationTokensPerSecond", "generation, tokens/s", 2, rows.map(\.generationTokensPerSecond)),
            ("outputTokensPerSecond", "output, tokens/s", 2, rows.map(\.outputTokensPerSecond)),
            ("cpuMicrosecondsPerToken", "processor time, us/token", 2, rows.map { $0.cpuSecondsPerToken * 1e6 }),
            ("secondsToFirstToken", "mean time to first token, s", 4, rows.map(\.secondsToFirstToken)),
        ]
        if json {
            var object = JSONObject()
            for (key, value) in [("concurrency", concurrency), ("prompt", self.prompt), ("generate", generate)] {
                object[key] = .integer(Int64(value))
            }
            for figure in figures { object[figure.key] = .array(figure.values.map { .double($0) }) }
            let metrics = benchmark.metrics()
            object["draftedTokens"] = .integer(Int64(metrics.draftedTokens))
            object["acceptedTokens"] = .integer(Int64(metrics.acceptedTokens))
            try Terminal.out(JSONValue.object(object).serialized() + "\n")
            return
        }
        try Terminal.out("| \(concurrency) requests | median | lowest | highest |\n|---|---|---|---|\n")
        for figure in figures {
            let sorted = figure.values.sorted()
            try Terminal.out(
                "| \(figure.label) | \(fixed(sorted[sorted.count / 2], figure.digits)) | "
                    + "\(fixed(sorted[0], figure.digits)) | \(fixed(sorted[sorted.count - 1], figure.digits)) |\n")
        }
        let metrics = benchmark.metrics()
        if metrics.draftedTokens > 0 {
            try Terminal.out("drafted \(metrics.draftedTokens) tokens, accepted \(metrics.acceptedTokens)\n")
        }
    }
}
