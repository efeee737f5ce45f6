import ApusAttention
import ApusEngine
import ApusModels
import ApusPlanning
import ApusTensor
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
            Random tokens, one untimed run first. On the CPU nothing is sampled, and with --batch 1 generation starts from an \
            empty cache, as in llama-bench; with more sequences it goes on from the prompts, as in llama-batched-bench. On a \
            GPU generation goes on from the prompts, each step on the tokens that the step before it chose; without a model, \
            --shape or sizes say what the random weights are.

            EXAMPLES:
              apus bench decode model.gguf --threads 2 --prompt 512 --generate 128
              apus bench decode model.gguf --threads 2 --prompt 128 --generate 128 --batch 16 --json
              mpirun -n 2 apus bench decode ./model --threads 1 --batch 16 --tensor-parallel 2
              apus bench decode --device cuda --shape smollm2-135m --prompt 128 --generate 128 --batch 1,64,256
              apus bench decode --device cuda --shape llama-3-8b --variant gla --prompt 128 --batch 64
              apus bench decode --device cuda --shape llama-3-8b --weights q4_0 --prompt 128 --batch 1,8,64
              apus launch -n 2 apus bench decode --device cuda --shape llama-3-8b --prompt 128 --batch 64
            """)

    /// Without a path, a shape whose weights are random.
    @OptionGroup var model: PlanModelOptions
    @OptionGroup var compute: ComputeOptions
    @Option(help: "cpu or cuda.") var device = ComputeDevice.cpu
    @Option(help: "Of random weights: the type of the matrices: bf16, q8_0, q4_0, q4_1, q4_K or q6_K.")
    var weights: RandomWeightType = .bf16
    @Option(help: "Prompt tokens of each sequence; 0 leaves the prompt out.") var prompt = 512
    @Option(help: "Tokens to generate for each sequence; 0 leaves generation out.") var generate = 128
    @Option(
        help: """
            With --device cuda: generate after so many tokens of a cache that is empty, in place of prompts: what long contexts \
            take without computing them.
            """)
    var cached = 0
    @Option(help: "Sequences; several numbers separated by commas are measured one after the other.")
    var batch = TokenList([1])
    @Option(help: "Timed runs; the median is printed.") var repeats = 3
    @Flag(help: "Print a JSON array with an object a row.") var json = false
    @OptionGroup var ranks: RankOptions

    func validate() throws {
        let counts = batch.ids.map { ("batch", Int($0), 1) } + [("cached", cached, 0)]
        for (name, value, least) in [("prompt", prompt, 0), ("generate", generate, 0), ("repeats", repeats, 1)] + counts
        where value < least || value > 1 << 24 {
            throw ValidationError("--\(name): expected an integer from \(least) to \(1 << 24), found \(value)")
        }
        if device == .cpu {
            guard model.model != nil else { throw ValidationError("expected a model, or --device cuda beside --shape") }
            if cached > 0 { throw ValidationError("--cached: expected --device cuda beside it") }
        } else if prompt == 0 {
            throw ValidationError("--prompt: expected at least 1 with --device cuda")
        }
        if weights != .bf16 && model.model != nil { throw ValidationError("--weights: expected --shape beside it") }
    }

    func run() throws {
        guard device == .cuda else { return try ranks.run(measure) }
        try ranks.run(on: device) { try BenchDecodeGPU(command: self, context: $0).run() }
    }

    private func measure(_ context: RankContext) throws {
        let decoder = try compute.loadDecoder(model.model ?? "", context)
        var rows: [DecodeBenchmark.Row] = []
        for batch in batch.ids {
            let benchmark = try DecodeBenchmark(
                decoder, prompt: prompt, generate: generate, batch: Int(batch), cacheType: try compute.cacheDType())
            rows += try benchmark.run(repeats: repeats)
        }
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

/// What random matrices are made of.
enum RandomWeightType: String, ExpressibleByArgument, CaseIterable {
    case bf16, q8_0, q4_0, q4_1, q4_K, q6_K

    var dtype: DType { DType(rawValue: rawValue) ?? .bf16 }
}

/// `apus bench decode --device cuda`.
struct BenchDecodeGPU {
    let command: BenchDecode
    let context: RankContext

    func run() throws {
        let batches = command.batch.ids.map(Int.init)
        let pages = GPUDecoderBenchmark.pages(prompt: max(command.prompt, command.cached), generate: command.generate)
        let most = batches.max() ?? 1
        let limits = GPUDecoder.Limits(
            sequences: most, tokens: pages * GPUDecoder.pageSize, pages: most * pages,
            chunk: max(1, min(8192, command.cached > 0 ? 1 : most * command.prompt)))
        let decoder = try context.loading { try self.decoder(limits) }
        let benchmark = GPUDecoderBenchmark(decoder)
        let rows = try batches.map {
            try benchmark.run(
                batch: $0, prompt: command.prompt, generate: command.generate, cached: command.cached,
                repeats: command.repeats)
        }
        if command.json {
            try context.out(JSONValue.array(rows.flatMap(objects)).serialized() + "\n")
            return
        }
        try context.out("| test | batch | tokens/s | lowest | highest | us a step |\n|---|---|---|---|---|---|\n")
        for (test, row, tokens, seconds, steps) in rows.flatMap(parts) {
            let rates = seconds.map { Double(row.batch * tokens) / $0 }
            let sorted = seconds.sorted()
            try context.out(
                "| \(test) \(tokens) | \(row.batch) | \(fixed(rates.sorted()[rates.count / 2], 0)) "
                    + "| \(fixed(rates.min() ?? 0, 0)) | \(fixed(rates.max() ?? 0, 0)) "
                    + "| \(fixed(sorted[sorted.count / 2] / Double(steps) * 1e6, 1)) |\n")
        }
        for batch in batches {
            let bytes = decoder.stepWeightBytes(sequences: batch)
            try context.out("weights that a step of \(batch) reads: \(fixed(Double(bytes) / 1e6, 1)) MB\n")
        }
    }

    private func decoder(_ limits: GPUDecoder.Limits) throws -> GPUDecoder {
        guard case .cuda(let ordinal) = context.device else { preconditionFailure("a GPU's benchmark") }
        let device = try CUDADevice.device(ordinal)
        guard let path = command.model.model else {
            let configuration = try command.model.configuration()
            let ranks = try context.isShared ? TensorParallel(configuration, over: context.job.world) : nil
            return try GPUDecoder(
                random: configuration, weights: command.weights.dtype, limits: limits, device: device, ranks: ranks)
        }
        let progress = ProgressLine(label: "loading \(path)", isShown: context.isFirst)
        defer { progress.end() }
        let checkpoint = try Checkpoints.open(path)
        return try GPUDecoder(
            checkpoint: checkpoint, limits: limits, device: device, ranks: try context.cut(checkpoint)
        ) { progress.update($0) }
    }

    /// What was measured: its name, tokens a sequence, seconds, steps.
    private typealias Part = (test: String, row: GPUDecoderBenchmark.Row, tokens: Int, seconds: [Double], steps: Int)

    private func parts(_ row: GPUDecoderBenchmark.Row) -> [Part] {
        [
            ("prompt", row, row.promptSeconds.isEmpty ? 0 : row.prompt, row.promptSeconds, 1),
            ("generation", row, row.generate, row.generationSeconds, row.generate),
        ].filter { $0.tokens > 0 }
    }

    private func objects(_ row: GPUDecoderBenchmark.Row) -> [JSONValue] {
        parts(row).map { test, row, tokens, seconds, _ in
            let rates = seconds.map { Double(row.batch * tokens) / $0 }
            return [
                "prompt": .integer(test == "prompt" ? Int64(tokens) : 0),
                "generate": .integer(test == "prompt" ? 0 : Int64(tokens)), "batch": .integer(Int64(row.batch)),
                "tokensPerSecond": .double(rates.sorted()[rates.count / 2]),
                "samples": .array(rates.map { .double($0) }),
            ]
        }
    }
}
