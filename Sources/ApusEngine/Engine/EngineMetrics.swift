/// What an ``Engine`` has done since it began, and what it does now. Times are in seconds. The comment of each names the metric of
/// vLLM with the same meaning.
public struct EngineMetrics: Sendable {
    /// Sequences that run (`num_requests_running`).
    public internal(set) var running = 0
    /// Requests and preempted sequences that wait (`num_requests_waiting`).
    public internal(set) var waiting = 0
    /// Prompt tokens of the requests that wait.
    public internal(set) var waitingTokens = 0
    /// Pages of the cache.
    public internal(set) var pages = 0
    /// Pages that running sequences hold.
    public internal(set) var usedPages = 0
    /// Pages that only the prefix cache holds: free, but with content that may be found again.
    public internal(set) var reusablePages = 0
    /// Share of the pages that running sequences hold (`kv_cache_usage_perc`, 1 is all).
    public var cacheUse: Double { pages == 0 ? 0 : Double(usedPages) / Double(pages) }

    /// Steps run.
    public internal(set) var steps = 0
    /// Tokens of prompts that have been computed or found (`prompt_tokens_total`).
    public internal(set) var promptTokens = 0
    /// Tokens generated (`generation_tokens_total`).
    public internal(set) var generationTokens = 0
    /// Sequences that gave their pages back to be recomputed later (`num_preemptions_total`).
    public internal(set) var preemptions = 0
    /// Prompt tokens looked up in the prefix cache (`prefix_cache_queries_total`).
    public internal(set) var prefixQueries = 0
    /// Prompt tokens found there (`prefix_cache_hits_total`).
    public internal(set) var prefixHits = 0
    /// Times that tokens were drafted for a sequence (`spec_decode_num_drafts_total`).
    public internal(set) var drafts = 0
    /// Tokens drafted (`spec_decode_num_draft_tokens_total`).
    public internal(set) var draftedTokens = 0
    /// Tokens drafted that the model drew too (`spec_decode_num_accepted_tokens_total`).
    public internal(set) var acceptedTokens = 0
    /// The same by place in the draft (`spec_decode_num_accepted_tokens_per_pos_total`).
    public internal(set) var acceptedByPlace: [Int] = []
    /// Samples that finished, by reason (`request_success_total`).
    public internal(set) var finished: [FinishReason: Int] = [:]
    /// Requests that failed after they were accepted.
    public internal(set) var failed = 0
    /// Requests refused because the queue was full.
    public internal(set) var refused = 0

    /// From submission to the first token (`time_to_first_token_seconds`).
    public internal(set) var timeToFirstToken = Histogram.timeToFirstToken
    /// Between two tokens of a sequence (`inter_token_latency_seconds`).
    public internal(set) var interTokenLatency = Histogram.tokenLatency
    /// Mean time per token after the first, of each sample (`request_time_per_output_token_seconds`).
    public internal(set) var timePerOutputToken = Histogram.tokenLatency
    /// From submission to the end (`e2e_request_latency_seconds`).
    public internal(set) var endToEnd = Histogram.requestLatency
    /// From submission to the first step (`request_queue_time_seconds`).
    public internal(set) var queueTime = Histogram.requestLatency
    /// From the first step to the first token (`request_prefill_time_seconds`).
    public internal(set) var prefillTime = Histogram.requestLatency
    /// From the first token to the last (`request_decode_time_seconds`).
    public internal(set) var decodeTime = Histogram.requestLatency
    /// From the first step to the end (`request_inference_time_seconds`).
    public internal(set) var inferenceTime = Histogram.requestLatency
    /// Tokens of each prompt (`request_prompt_tokens`).
    public internal(set) var promptLength: Histogram
    /// Tokens generated for each sample (`request_generation_tokens`).
    public internal(set) var generationLength: Histogram
    /// Limit on generated tokens of each request (`request_params_max_tokens`).
    public internal(set) var maxTokens: Histogram
    /// Samples of each request (`request_params_n`).
    public internal(set) var samples = Histogram.samples
    /// Tokens computed in each step (`iteration_tokens_total`).
    public internal(set) var tokensPerStep = Histogram.stepTokens

    init(context: Int) {
        promptLength = .lengths(upTo: context)
        generationLength = .lengths(upTo: context)
        maxTokens = .lengths(upTo: context)
    }
}
