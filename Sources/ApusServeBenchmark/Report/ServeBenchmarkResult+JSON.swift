import ApusText

extension ServeBenchmarkResult {
    /// The result under the names that `vllm bench serve --save-result` uses, with the settings beside them.
    public var json: JSONValue {
        var result = JSONObject()
        result["settings"] = .object(JSONObject(settings.map { ($0.name, .string($0.value)) }))
        result["duration"] = .double(duration)
        result["completed"] = .integer(Int64(completed))
        result["failed"] = .integer(Int64(failed))
        result["total_input_tokens"] = .integer(Int64(inputTokens))
        result["total_output_tokens"] = .integer(Int64(outputTokens))
        result["request_throughput"] = .double(requestThroughput)
        if let goodput { result["request_goodput"] = .double(goodput) }
        result["output_throughput"] = .double(outputThroughput)
        result["total_token_throughput"] = .double(totalThroughput)
        result["max_output_tokens_per_s"] = .double(peakOutputThroughput)
        result["max_concurrent_requests"] = .integer(Int64(peakConcurrency))
        for (key, _, _, values) in distributions {
            result["mean_\(key)_ms"] = .double(values.mean)
            result["median_\(key)_ms"] = .double(values.percentile(0.5))
            result["std_\(key)_ms"] = .double(values.deviation)
            result["p90_\(key)_ms"] = .double(values.percentile(0.9))
            result["p99_\(key)_ms"] = .double(values.percentile(0.99))
        }
        if let speculation {
            result["spec_decode_acceptance_rate"] = .double(speculation.acceptanceRate * 100)
            result["spec_decode_acceptance_length"] = .double(speculation.acceptanceLength)
            result["spec_decode_num_drafts"] = .double(speculation.drafts)
            result["spec_decode_draft_tokens"] = .double(speculation.draftTokens)
            result["spec_decode_accepted_tokens"] = .double(speculation.acceptedTokens)
        }
        result["client_cpu_seconds"] = .double(clientSeconds)
        result["failures"] = .object(JSONObject(failures.map { ($0.reason, .integer(Int64($0.count))) }))
        return .object(result)
    }
}
