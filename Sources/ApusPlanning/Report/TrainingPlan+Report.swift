import ApusReport
import ApusText

extension TrainingPlan {
    private var memoryParts: [(key: String, name: String, bytes: Double)] {
        [
            ("weights", "weights", memory.weights), ("gradients", "gradients", memory.gradients),
            ("moments", "moments of AdamW", memory.moments), ("activations", "activations", memory.activations),
            ("working", "working memory", memory.working), ("total", "in all", memory.total),
        ]
    }

    private var timeParts: [(key: String, name: String, seconds: Double)] {
        [
            ("compute", "compute", time.compute),
            ("tensorCommunication", "tensor-parallel all-reduces", time.tensorCommunication),
            ("gradientCommunication", "gradients on the way", time.gradientCommunication),
            ("exposedCommunication", "of that not hidden", time.exposedCommunication),
            ("optimizer", "AdamW", time.optimizer), ("step", "a step", time.step),
        ]
    }

    /// The plan as text.
    public func text(model: String) -> String {
        let devices = settings.tensorParallel * settings.dataParallel
        var lines = [
            "model     \(model), \(configuration.variantName), "
                + "\(NumberText.fixed(Double(configuration.parameterCount) / 1e9, 3)) B parameters",
            "devices   \(devices) x \(device.name), TP\(settings.tensorParallel) DP\(settings.dataParallel)"
                + (settings.shardsOptimizer ? ", ZeRO-1" : "")
                + (settings.checkpointsLayers ? ", checkpointed layers" : ""),
            "step      \(settings.batch) sequences of \(NumberText.grouped(settings.context)) tokens, "
                + (settings.computesBF16 ? "bf16" : "float32"),
            "", "memory of each device, GB",
        ]
        lines += ServingReport.table(memoryParts.map { ["  " + $0.name, NumberText.fixed($0.bytes / 1e9, 3)] })
        lines.append(
            "  \(fits ? "fits" : "does not fit") \(NumberText.fixed(device.memoryBytes / 1e9, 1)) GB")
        lines += ["", "time, ms"]
        lines += ServingReport.table(timeParts.map { ["  " + $0.name, NumberText.fixed($0.seconds * 1000, 2)] })
        lines.append("  \(NumberText.grouped(Int(tokensPerSecond))) tokens/s at \(settings.utilisation) of the peak")
        return lines.joined(separator: "\n") + "\n"
    }

    /// The plan as JSON: bytes and seconds.
    public func json(model: String) -> JSONValue {
        [
            "model": .string(model), "attention": .string(configuration.variantName),
            "parameters": .integer(Int64(configuration.parameterCount)), "device": .string(device.name),
            "tensorParallel": .integer(Int64(settings.tensorParallel)),
            "dataParallel": .integer(Int64(settings.dataParallel)),
            "memoryBytes": .object(JSONObject(memoryParts.map { ($0.key, .double($0.bytes)) })),
            "fits": .bool(fits), "seconds": .object(JSONObject(timeParts.map { ($0.key, .double($0.seconds)) })),
            "tokensPerStep": .integer(Int64(tokensPerStep)), "tokensPerSecond": .double(tokensPerSecond),
            "operationsPerToken": .double(operationsPerToken),
        ]
    }
}
