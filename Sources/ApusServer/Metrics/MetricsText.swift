import ApusEngine

/// The server's metrics as Prometheus reads them, with vLLM's names behind the prefix `apus:`, so that dashboards made for
/// vLLM carry over by changing the prefix.
struct MetricsText {
    private var writer: PrometheusWriter
    private let metrics: EngineMetrics

    init(_ metrics: EngineMetrics, model: String) {
        self.metrics = metrics
        writer = PrometheusWriter(labels: [("engine", "0"), ("model_name", model)])
    }

    /// The text.
    /// - Parameter requests: HTTP requests by route, method and status.
    mutating func text(requests: [(key: HTTPCounters.Key, count: Int)]) -> String {
        writeGauges()
        writeCounters()
        writeHistograms()
        writer.counter(
            "apus:http_requests_total", "Number of HTTP requests by route, method and status.",
            requests.map {
                ([("handler", $0.key.route), ("method", $0.key.method), ("status", "\($0.key.status)")], $0.count)
            })
        return writer.text
    }

    private mutating func writeGauges() {
        writer.gauge(
            "apus:num_requests_running", "Number of requests in model execution batches.", Double(metrics.running))
        writer.gauge(
            "apus:num_requests_waiting", "Number of requests waiting to be processed.", Double(metrics.waiting))
        writer.gauge(
            "apus:num_tokens_waiting", "Number of prompt tokens of the requests waiting to be processed.",
            Double(metrics.waitingTokens))
        writer.gauge(
            "apus:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", metrics.cacheUse)
        writer.gauge("apus:kv_cache_pages", "Number of pages of the KV cache.", Double(metrics.pages))
    }

    private mutating func writeCounters() {
        let counters: [(String, String, Int)] = [
            (
                "prefix_cache_queries", "Prefix cache queries, in terms of number of queried tokens.",
                metrics.prefixQueries
            ),
            ("prefix_cache_hits", "Prefix cache hits, in terms of number of cached tokens.", metrics.prefixHits),
            ("num_preemptions", "Cumulative number of preemption from the engine.", metrics.preemptions),
            ("prompt_tokens", "Number of prefill tokens processed.", metrics.promptTokens),
            ("generation_tokens", "Number of generation tokens processed.", metrics.generationTokens),
            ("spec_decode_num_drafts", "Number of spec decoding drafts.", metrics.drafts),
            ("spec_decode_num_draft_tokens", "Number of draft tokens.", metrics.draftedTokens),
            ("spec_decode_num_accepted_tokens", "Number of accepted tokens.", metrics.acceptedTokens),
            ("num_requests_refused", "Number of requests refused because the queue was full.", metrics.refused),
        ]
        for (name, help, value) in counters { writer.counter("apus:\(name)_total", help, value) }
        writer.counter(
            "apus:spec_decode_num_accepted_tokens_per_pos_total", "Accepted tokens per draft position.",
            metrics.acceptedByPlace.enumerated().map { ([("position", "\($0.offset)")], $0.element) })
        let reasons: [(String, Int)] = [
            ("stop", metrics.finished[.stop] ?? 0), ("length", metrics.finished[.length] ?? 0),
            ("abort", metrics.finished[.cancelled] ?? 0), ("error", metrics.failed),
        ]
        writer.counter(
            "apus:request_success_total", "Count of successfully processed requests.",
            reasons.map { ([("finished_reason", $0.0)], $0.1) })
    }

    private mutating func writeHistograms() {
        let histograms: [(String, String, Histogram)] = [
            ("iteration_tokens_total", "Number of tokens per engine_step.", metrics.tokensPerStep),
            ("request_prompt_tokens", "Number of prefill tokens processed.", metrics.promptLength),
            ("request_generation_tokens", "Number of generation tokens processed.", metrics.generationLength),
            ("request_params_n", "The n request parameter.", metrics.samples),
            ("request_params_max_tokens", "The max_tokens request parameter.", metrics.maxTokens),
            ("time_to_first_token_seconds", "Time to first token in seconds.", metrics.timeToFirstToken),
            ("inter_token_latency_seconds", "Inter-token latency in seconds.", metrics.interTokenLatency),
            (
                "request_time_per_output_token_seconds", "Time per output token of each request in seconds.",
                metrics.timePerOutputToken
            ),
            ("e2e_request_latency_seconds", "E2E request latency in seconds.", metrics.endToEnd),
            ("request_queue_time_seconds", "Time spent in WAITING phase for request.", metrics.queueTime),
            ("request_inference_time_seconds", "Time spent in RUNNING phase for request.", metrics.inferenceTime),
            ("request_prefill_time_seconds", "Time spent in PREFILL phase for request.", metrics.prefillTime),
            ("request_decode_time_seconds", "Time spent in DECODE phase for request.", metrics.decodeTime),
        ]
        for (name, help, histogram) in histograms { writer.histogram("apus:\(name)", help, histogram) }
    }
}
