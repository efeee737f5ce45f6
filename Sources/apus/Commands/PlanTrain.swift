import ApusPlanning
import ApusText
import ArgumentParser

/// `apus plan train`: memory and time of a training layout.
struct PlanTrain: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "train",
        abstract: "Plan training: memory of each device and the time of a step.",
        discussion: """
            Weights, gradients and moments are float32, with a bf16 copy of the weights; activations are what the trainer keeps. \
            Compute is at --utilisation of the device's peak. docs/planning.md says what is computed.

            EXAMPLES:
              apus plan train --shape llama-3-8b --device h100 --tp 8 --dp 4 --batch 64 --context 8192 --zero --checkpoint
              apus plan train --layers 24 --hidden 2048 --query-heads 16 --kv-heads 4 --feed-forward 6486 \
            --vocabulary 50304 --dp 8 --batch 256 --json
            """)

    @OptionGroup var model: PlanModelOptions
    @Option(help: "a100, h100, h200, b200, cpu (measured now), or a file that apus doctor --json wrote.") var device =
        "h100"
    @Option(help: "Devices that share one copy of the model.") var tp = 1
    @Option(help: "Copies of the model.") var dp = 1
    @Option(help: "Sequences of a step, over all copies.") var batch = 8
    @Option(help: "Sequences that a copy runs at once; its whole part of the batch by default.") var microBatch: Int?
    @Option(help: "Tokens of a sequence.") var context = 2048
    @Flag(help: "Compute in float32 in place of bf16.") var float32 = false
    @Flag(help: "Share the optimiser's state among the copies (ZeRO-1).") var zero = false
    @Flag(help: "Keep only the inputs of layers, and run them again for their gradients.") var checkpoint = false
    @Option(help: "Share of the device's peak that a whole step's products reach.") var utilisation = 0.4
    @Option(help: "Share of the backward pass behind which gradients travel.") var overlap = 0.9
    @Flag(help: "Print one JSON object.") var json = false

    func validate() throws {
        for (name, value) in [
            ("tp", tp), ("dp", dp), ("batch", batch), ("micro-batch", microBatch ?? 1), ("context", context),
        ] where !(1...1 << 20).contains(value) {
            throw ValidationError("--\(name): expected an integer from 1 to 2^20, found \(value)")
        }
        guard utilisation > 0, utilisation <= 1 else {
            throw ValidationError("--utilisation: expected a number above 0 and at most 1, found \(utilisation)")
        }
        guard (0...1).contains(overlap) else {
            throw ValidationError("--overlap: expected a number from 0 to 1, found \(overlap)")
        }
    }

    func run() throws {
        var settings = TrainingPlan.Settings()
        settings.tensorParallel = tp
        settings.dataParallel = dp
        settings.batch = batch
        settings.microBatch = microBatch
        settings.context = context
        settings.computesBF16 = !float32
        settings.shardsOptimizer = zero
        settings.checkpointsLayers = checkpoint
        settings.utilisation = utilisation
        settings.overlap = overlap
        let plan = try TrainingPlan(
            try model.configuration(), on: try PlanFiles.device(device), settings: settings)
        try Terminal.out(json ? plan.json(model: model.name).serialized() + "\n" : plan.text(model: model.name))
    }
}
