import ApusText

extension ServingReport {
    /// The report as JSON; the runs under the names of `apus bench serve --json`.
    public var json: JSONValue {
        let memory = plan.memory
        var object = JSONObject()
        object["model"] = .string(model)
        object["attention"] = .string(plan.configuration.variantName)
        object["parameters"] = .integer(Int64(plan.configuration.parameterCount))
        object["weights"] = .string(plan.settings.weights.rawValue)
        object["device"] = .string(plan.roofline.device.name)
        object["source"] = .string(plan.roofline.device.source)
        object["tensorParallel"] = .integer(Int64(plan.layout.tensorParallel))
        object["dataParallel"] = .integer(Int64(plan.layout.dataParallel))
        object["sharesFeedForward"] = .bool(plan.layout.sharesFeedForward)
        object["weightBytes"] = .double(memory.weightBytes)
        object["cacheBytesPerToken"] = .double(memory.cacheBytesPerToken)
        object["duplication"] = .integer(Int64(memory.duplication))
        object["cacheTokens"] = .integer(Int64(memory.cacheTokens))
        object["requestTokens"] = .integer(Int64(plan.requestTokens))
        object["largestBatch"] = .integer(Int64(plan.largestBatch))
        object["isCalibrated"] = .bool(plan.calibration != nil)
        object["steps"] = .array(
            steps.map { step in
                [
                    "step": .string(step.name), "seconds": .double(step.time.seconds),
                    "memorySeconds": .double(step.time.memory), "computeSeconds": .double(step.time.compute),
                    "communicationSeconds": .double(step.time.communication),
                    "overheadSeconds": .double(step.time.overhead), "bound": .string(step.time.bound.rawValue),
                ]
            })
        object["runs"] = .array(runs.map(Self.object))
        return .object(object)
    }

    private static func object(_ run: Run) -> JSONValue {
        let result = run.result
        var object = JSONObject()
        object["load"] = .string(run.name)
        if let concurrency = run.concurrency { object["concurrency"] = .integer(Int64(concurrency)) }
        object["duration"] = .double(result.duration)
        object["completed"] = .integer(Int64(result.requests))
        object["total_input_tokens"] = .integer(Int64(result.inputTokens))
        object["total_output_tokens"] = .integer(Int64(result.outputTokens))
        object["request_throughput"] = .double(result.requestThroughput)
        object["output_throughput"] = .double(result.outputThroughput)
        for (key, _, _, values) in result.distributions {
            object["mean_\(key)_ms"] = .double(values.mean * 1000)
            object["median_\(key)_ms"] = .double(values.median * 1000)
            object["p90_\(key)_ms"] = .double(values.percentile(0.9) * 1000)
            object["p99_\(key)_ms"] = .double(values.percentile(0.99) * 1000)
        }
        object["steps"] = .integer(Int64(result.steps))
        object["peak_running"] = .integer(Int64(result.peakRunning))
        object["preemptions"] = .integer(Int64(result.preemptions))
        return .object(object)
    }
}
