import ApusDistributed
import ApusTensor
import ApusText
import ApusTraining
import ArgumentParser

/// `apus bench train`: speed of training steps.
struct BenchTrain: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "train",
        abstract: "Measure whole training steps: forward, backward, clipping, AdamW.",
        discussion: """
            Random tokens and fresh weights; sizes are the keys of a recipe, given as arguments. One step is not timed.

            EXAMPLES:
              apus bench train --threads 2 model.hidden_size=256 model.layers=6 model.heads=4 model.kv_heads=2 \
            model.feed_forward_width=704 model.vocabulary=4096 data.batch_size=16 data.sequence_length=256
              apus bench train model.attention=gla training.compute=float32 --json
              apus bench train --device cuda --steps 20 data.batch_size=32 data.sequence_length=1024
              mpirun -n 2 apus bench train --threads 1 model.attention=gla
              apus launch -n 2 apus bench train --device cuda data.batch_size=32 data.sequence_length=1024
              apus launch -n 2 apus bench train --device cuda --tensor-parallel 2 data.batch_size=32
            """)

    @Option(help: "Where to train: cpu, cuda or cuda:N (as training.device).") var device: String?
    @Option(help: "Threads; the cores this process may use by default.") var threads: Int?
    @Option(help: "Ranks that share one model, cut over them; the others hold copies of it.") var tensorParallel = 1
    @Option(help: "Timed steps; the median is printed.") var steps = 5
    @Flag(help: "Also list the kernels of one step (without exchanges) on the GPU by their time.") var profile = false
    @Flag(help: "Print a JSON object.") var json = false
    @Argument(help: "Settings, as section.key=value.") var settings: [String] = []

    func validate() throws {
        if steps < 1 { throw ValidationError("--steps: expected at least 1, found \(steps)") }
        if tensorParallel < 1 {
            throw ValidationError("--tensor-parallel: expected at least 1, found \(tensorParallel)")
        }
        if let threads, threads < 1 { throw ValidationError("--threads: expected at least 1, found \(threads)") }
    }

    func run() async throws {
        let gpu = try Ranks.gpu(for: recipe)
        try await Ranks.run(on: gpu?.stream) { try await measure($0, gpu) }
    }

    /// Nothing is read from the path: the tokens are random.
    private func recipe() throws -> Recipe {
        try Recipe.parse(
            "data: {path: none}", name: "settings",
            overrides: settings + (device.map { ["training.device=\($0)"] } ?? []))
    }

    private func measure(_ job: DistributedJob, _ gpu: CUDABackend?) async throws {
        let ranks = try TrainingRanks(job.world, tensorParallel: tensorParallel)
        let recipe = try recipe()
        let benchmark = try TrainingBenchmark(
            recipe, vocabulary: 4096, replicas: ranks.replicas, tensorParallel: ranks.cut,
            on: CPUBackend(threads: threads), gpu: gpu)
        let result = try await benchmark.run(steps: steps)
        guard job.world.rank == 0 else { return }
        if json {
            var object = JSONObject()
            object["parameters"] = .integer(Int64(result.parameters))
            object["tokensPerStep"] = .integer(Int64(result.tokensPerStep))
            object["tokensPerSecond"] = .double(result.tokensPerSecond)
            object["operationsPerSecond"] = .double(result.operationsPerSecond)
            object["samples"] = .array(result.samples.map { .double($0) })
            object["stepSeconds"] = .double(result.stepSeconds)
            if let compute = result.computeSeconds { object["computeSeconds"] = .double(compute) }
            if let exchange = result.communicationSeconds { object["communicationSeconds"] = .double(exchange) }
            if let bytes = result.peakDeviceMemory { object["peakDeviceMemory"] = .integer(Int64(bytes)) }
            object["peakMemory"] = .integer(Int64(peakMemory()))
            try Terminal.out(JSONValue.object(object).serialized() + "\n")
            return
        }
        try Terminal.out(
            """
            \(recipe.model.attentionName), \(fixed(Double(result.parameters) / 1e6, 2)) M parameters, \
            \(recipe.training.compute.rawValue), \(result.tokensPerStep) tokens a step
            \(fixed(result.tokensPerSecond, 0)) tokens/s (lowest \(fixed(result.samples.min() ?? 0, 0)), \
            highest \(fixed(result.samples.max() ?? 0, 0))), \(fixed(result.operationsPerSecond / 1e9, 0)) GFLOP/s at 6 N, \
            peak memory \((result.peakDeviceMemory ?? Int(peakMemory())) >> 20) MB\(result.peakDeviceMemory == nil ? "" : " of the GPU")

            """)
        if profile { try Terminal.out(table(try await benchmark.profile())) }
        guard let compute = result.computeSeconds, let exchange = result.communicationSeconds else { return }
        try Terminal.out(
            "\(job.world.size) ranks: a step takes \(fixed(result.stepSeconds, 4)) s; without exchanges "
                + "\(fixed(compute, 4)) s, the exchanges alone \(fixed(exchange, 4)) s: "
                + "\(fixed(result.stepSeconds / max(compute, exchange), 3)) times the larger\n")
    }

    private func table(_ kernels: [(kernel: String, launches: Int, seconds: Double)]) -> String {
        let total = kernels.reduce(0.0) { $0 + $1.seconds }
        var text = "| ms | share | launches | kernel |\n|---|---|---|---|\n"
        for kernel in kernels {
            text +=
                "| \(fixed(kernel.seconds * 1e3, 3)) | \(fixed(100 * kernel.seconds / max(total, 1e-12), 1)) % "
                + "| \(kernel.launches) | \(kernel.kernel) |\n"
        }
        return text + "| \(fixed(total * 1e3, 3)) | | \(kernels.reduce(0) { $0 + $1.launches }) | all |\n"
    }
}
