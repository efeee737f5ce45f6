import ApusTensor
import ApusText
import ApusTraining
import ArgumentParser

/// `apus bench train`: speed of training steps.
struct BenchTrain: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "train",
        abstract: "Measure whole training steps: forward, backward, clipping, AdamW.",
        discussion: """
            Random tokens and fresh weights; sizes are the keys of a recipe, given as arguments. One step is not timed.

            EXAMPLES:
              apus bench train --threads 2 model.hidden_size=256 model.layers=6 model.heads=4 model.kv_heads=2 \
            model.feed_forward_width=704 model.vocabulary=4096 data.batch_size=16 data.sequence_length=256
              apus bench train model.attention=gla training.compute=float32 --json
            """)

    @Option(help: "Threads; the cores this process may use by default.") var threads: Int?
    @Option(help: "Timed steps; the median is printed.") var steps = 5
    @Flag(help: "Print a JSON object.") var json = false
    @Argument(help: "Settings, as section.key=value.") var settings: [String] = []

    func validate() throws {
        if steps < 1 { throw ValidationError("--steps: expected at least 1, found \(steps)") }
        if let threads, threads < 1 { throw ValidationError("--threads: expected at least 1, found \(threads)") }
    }

    func run() throws {
        // Nothing is read from the path: the tokens are random.
        let recipe = try Recipe.parse("data: {path: none}", name: "settings", overrides: settings)
        let result = try TrainingBenchmark(recipe, vocabulary: 4096, on: CPUBackend(threads: threads)).run(steps: steps)
        if json {
            var object = JSONObject()
            object["parameters"] = .integer(Int64(result.parameters))
            object["tokensPerStep"] = .integer(Int64(result.tokensPerStep))
            object["tokensPerSecond"] = .double(result.tokensPerSecond)
            object["operationsPerSecond"] = .double(result.operationsPerSecond)
            object["samples"] = .array(result.samples.map { .double($0) })
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
            peak memory \(peakMemory() >> 20) MB

            """)
    }
}
