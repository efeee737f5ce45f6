import ApusServeBenchmark
import ApusText
import ArgumentParser

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

/// `apus bench serve`: a server's speed as its users feel it.
struct BenchServe: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "serve",
        abstract: "Measure a server that speaks OpenAI's API.",
        discussion: """
            Sends a workload and prints what vllm bench serve prints: time to first token (TTFT), time per output token \
            after the first (TPOT), time between pieces of an answer (ITL), end-to-end latency (E2EL), throughput. Random \
            prompts are token ids, of exact length; with --tokenizer they are of that tokenizer's tokens, with --text they \
            are sent as text.

            EXAMPLES:
              apus bench serve http://127.0.0.1:8000 --requests 64 --concurrency 16
              apus bench serve http://127.0.0.1:8000 --workload shared-prefix --prefix 1024 --prompt 32 --concurrency 8
              apus bench serve http://127.0.0.1:8000 --rate 2 --ramp 20 --goodput ttft:200 --goodput tpot:50 --html out.html
              apus bench serve http://127.0.0.1:8000 --workload file --file prompts.jsonl --chat
            """)

    enum WorkloadKind: String, ExpressibleByArgument, CaseIterable {
        case random
        case sharedPrefix = "shared-prefix"
        case file
    }

    @Argument(help: "The server's address: http://host:port.") var server: String
    @Option(help: "The model to name in requests; by default the first one that the server serves.") var model: String?
    @Option(help: "What is asked: random, shared-prefix or file.") var workload = WorkloadKind.random
    @Option(help: "JSON lines with a prompt (text or token ids) or messages, and perhaps max_tokens.") var file: String?
    @Option(help: "Tokens of a random prompt, after the shared prefix.") var prompt = 128
    @Option(help: "Tokens to generate.") var generate = 128
    @Option(help: "Lengths vary by this share of themselves.") var spread = 0.0
    @Option(help: "Tokens of a shared prefix.") var prefix = 1024
    @Option(help: "Different shared prefixes.") var groups = 1
    @Option(help: "Requests; 64, or all of a file, by default.") var requests: Int?
    @Option(help: "Requests a second, at random times; as fast as possible by default.") var rate: Double?
    @Option(help: "Requests a second at the end: the rate changes evenly from --rate.") var ramp: Double?
    @Option(help: "Requests at once, at most.") var concurrency: Int?
    @Option(help: "A tokenizer.json, a folder that holds one, or a GGUF file: random prompts are of its tokens.")
    var tokenizer: String?
    @Option(help: "Without a tokenizer, random token ids are below this.") var vocabulary = 32000
    @Flag(help: "Send random prompts as text.") var text = false
    @Flag(help: "Ask the chat endpoint.") var chat = false
    @Option(help: "Divides the logits; 0 is greedy.") var temperature = 0.0
    @Flag(help: "Let answers end where the model ends them.") var stopAtEnd = false
    @Option(help: ArgumentHelp("Further members of each request, as a JSON object.", valueName: "json")) var extra:
        String?
    @Option(help: "A limit of good requests: ttft:MS, tpot:MS or e2el:MS; may be given several times.")
    var goodput: [String] = []
    @Option(help: "Sent as a bearer token.") var apiKey: String?
    @Option(help: "Requests sent before, one by one, and not counted.") var warmup = 1
    @Option(help: "Seconds after which a request is given up.") var timeout = 600.0
    @Option(help: "Seed of prompts and times.") var seed: UInt64 = 0
    @Flag(help: "Print a JSON object.") var json = false
    @Option(help: "Write a page with the distributions to this file.") var html: String?

    func validate() throws {
        for (name, value, least) in [
            ("prompt", prompt, 1), ("generate", generate, 1), ("prefix", prefix, 0), ("groups", groups, 1),
            ("requests", requests ?? 1, 1), ("warmup", warmup, 0), ("concurrency", concurrency ?? 1, 1),
        ] where value < least || value > 1 << 20 {
            throw ValidationError("--\(name): expected an integer from \(least) to \(1 << 20), found \(value)")
        }
        if ramp != nil, rate == nil { throw ValidationError("--ramp: expected --rate beside it, found none") }
        if workload == .file, file == nil { throw ValidationError("--workload file: expected --file, found none") }
        if (text || chat), workload != .file, tokenizer == nil {
            throw ValidationError(
                "\(chat ? "--chat" : "--text"): expected --tokenizer, to make random text; found none")
        }
    }

    func run() throws {
        var benchmark = try ServeBenchmark(ServerAddress(server))
        benchmark.options.model = model
        benchmark.options.usesChat = chat
        benchmark.options.temperature = temperature
        benchmark.options.ignoresEnd = !stopAtEnd
        if let extra {
            guard let object = try JSONValue(parsing: extra).objectValue else {
                throw ValidationError("--extra: expected a JSON object, found \(extra)")
            }
            benchmark.options.extra = object
        }
        benchmark.arrivals = Arrivals(rate: rate, finalRate: ramp, concurrency: concurrency)
        benchmark.limits = try GoodputLimits(goodput)
        benchmark.apiKey = apiKey
        benchmark.requestTimeout = timeout
        benchmark.seed = seed
        let source =
            try tokenizer.map { PromptSource(try Tokenizer(model: $0), asText: text || chat) }
            ?? PromptSource(vocabularySize: vocabulary)
        let list = try kind.requests(count: requests, from: source, seed: seed)
        // Other prompts than those measured, so that nothing of these is in a cache.
        let warm = warmup > 0 ? try kind.requests(count: warmup, from: source, seed: ~seed) : []
        let total = list.count
        var shown = -1
        let result = try benchmark.run(list, warmupRequests: warm, settings: settings) { ended in
            guard Terminal.errorIsTerminal, ended != shown else { return }
            shown = ended
            Terminal.error("\r\(ended) of \(total) requests")
        }
        if shown >= 0 { Terminal.error("\r\u{1B}[K") }
        if let html { try Data(result.html.utf8).write(to: URL(filePath: html)) }
        try Terminal.out(json ? result.json.serialized() + "\n" : result.text)
        if result.completed == 0 { throw ExitCode.failure }
    }

    private var kind: Workload {
        switch workload {
        case .random: .random(prompt: prompt, output: generate, spread: spread)
        case .sharedPrefix: .sharedPrefix(prefix: prefix, groups: groups, prompt: prompt, output: generate)
        case .file: .file(path: file ?? "", output: generate)
        }
    }

    private var settings: [(name: String, value: String)] {
        var result = [("workload", workload.rawValue)]
        if workload == .sharedPrefix { result += [("prefix", String(prefix)), ("groups", String(groups))] }
        if workload != .file { result.append(("prompt", String(prompt))) }
        result.append(("generate", String(generate)))
        result.append(("rate", rate.map { "\($0)" + (ramp.map { " to \($0)" } ?? "") } ?? "inf"))
        if let concurrency { result.append(("concurrency", String(concurrency))) }
        return result
    }
}
