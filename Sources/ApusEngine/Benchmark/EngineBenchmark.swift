import ApusSynchronization
import ApusModels
import ApusTensor

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Times the engine alone: no HTTP, events counted where they are delivered.
public struct EngineBenchmark {
    /// One run of all requests.
    public struct Row: Sendable {
        /// Tokens generated per second while every sequence decodes.
        public let generationTokensPerSecond: Double
        /// Tokens generated per second from the first submission to the last token.
        public let outputTokensPerSecond: Double
        /// Processor seconds of the process per token generated.
        public let cpuSecondsPerToken: Double
        /// Seconds from the submission to the first token, mean over requests.
        public let secondsToFirstToken: Double
    }

    /// What each request asks.
    public enum Prompt: Sendable {
        /// So many random tokens, others for each request; ends of sequences are ignored.
        case random(Int)
        /// These tokens.
        case tokens([Int32])
    }

    private let engine: Engine
    private let prompt: Prompt
    private let generate: Int
    private let concurrency: Int

    /// A benchmark of `concurrency` requests at once, each generating `generate` tokens, greedy. The prefix cache is off.
    public init(
        _ model: LanguageModel, prompt: Prompt, generate: Int, concurrency: Int, cacheType: DType? = nil,
        speculation: Speculation = .none, device: Device = .cpu
    ) throws {
        engine = try Engine(
            model,
            Self.configuration(
                prompt: prompt, generate: generate, concurrency: concurrency, cacheType: cacheType,
                speculation: speculation, device: device))
        self.prompt = prompt
        self.generate = generate
        self.concurrency = concurrency
    }

    /// The engine's configuration, which followers on other ranks have too.
    public static func configuration(
        prompt: Prompt, generate: Int, concurrency: Int, cacheType: DType? = nil, speculation: Speculation = .none,
        device: Device = .cpu
    ) -> EngineConfiguration {
        var configuration = EngineConfiguration()
        switch prompt {
        case .random(let count): configuration.context = count + generate
        case .tokens(let tokens): configuration.context = tokens.count + generate
        }
        configuration.device = device
        configuration.maxSequences = concurrency
        if device != .cpu { configuration.takeGPUSteps() }
        configuration.stepTokens = max(configuration.stepTokens, concurrency)
        configuration.cacheType = cacheType
        configuration.usesPrefixCache = false
        configuration.speculation = speculation
        return configuration
    }

    /// Ends the engine, and the followers on other ranks.
    public func end() {
        engine.shutdown()
        engine.waitUntilEnded()
    }

    /// What the engine has counted over all runs.
    public func metrics() -> EngineMetrics { engine.metrics() }

    /// Runs once without timing, then `repeats` times.
    public func run(repeats: Int) throws -> [Row] {
        _ = try once()
        return try (0..<repeats).map { _ in try once() }
    }

    private struct Progress {
        /// When each request had its first token.
        var firstTokens: [Int: ContinuousClock.Instant] = [:]
        var tokens = 0
        /// Tokens delivered, and when, as the last request had its first token and as the first request ended.
        var decodingStart: (time: ContinuousClock.Instant, tokens: Int)?
        var decodingEnd: (time: ContinuousClock.Instant, tokens: Int)?
        var ended = 0
        var error: EngineError?

        mutating func take(_ events: [GenerationEvent], _ isLast: Bool, request: Int, of concurrency: Int) {
            let now = ContinuousClock.now
            var hasToken = false
            for event in events {
                switch event {
                case .piece(_, let piece):
                    tokens += piece.tokens.count
                    hasToken = true
                case .failed(let failure): error = failure
                default: continue
                }
            }
            if hasToken, firstTokens[request] == nil {
                firstTokens[request] = now
                if firstTokens.count == concurrency { decodingStart = (now, tokens) }
            }
            guard isLast else { return }
            ended += 1
            if decodingEnd == nil { decodingEnd = (now, tokens) }
        }
    }

    private func once() throws -> Row {
        let progress = Monitor(Progress())
        let clock = ContinuousClock()
        let vocabulary = Int32(clamping: engine.model.tokenizer.idBound)
        var sampling = SamplingParameters()
        sampling.maxTokens = generate
        let (start, cpuStart) = (clock.now, Self.processorSeconds())
        for request in 0..<concurrency {
            let tokens: [Int32]
            switch prompt {
            case .random(let count):
                tokens = (0..<count).map { _ in Int32.random(in: 0..<vocabulary) }
                sampling.ignoreEndOfSequence = true
            case .tokens(let given): tokens = given
            }
            _ = try engine.submit(GenerationRequest(prompt: tokens, sampling: sampling)) { [concurrency] in
                let (events, isLast) = ($0, $1)
                progress.withLock { $0.take(events, isLast, request: request, of: concurrency) }
                if isLast { progress.signal() }
            }
        }
        let done = progress.wait { [concurrency] in $0.ended == concurrency ? $0 : nil }
        if let error = done.error { throw error }
        let (end, cpuEnd) = (clock.now, Self.processorSeconds())
        var rate = 0.0
        if let first = done.decodingStart, let last = done.decodingEnd, last.time > first.time {
            rate = Double(last.tokens - first.tokens) / (last.time - first.time).inSeconds
        }
        return Row(
            generationTokensPerSecond: rate, outputTokensPerSecond: Double(done.tokens) / (end - start).inSeconds,
            cpuSecondsPerToken: (cpuEnd - cpuStart) / Double(done.tokens),
            secondsToFirstToken: done.firstTokens.values.reduce(0) { $0 + ($1 - start).inSeconds }
                / Double(concurrency))
    }

    /// Processor time of all threads so far.
    private static func processorSeconds() -> Double {
        var usage = rusage()
        getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
        func seconds(_ time: timeval) -> Double { Double(time.tv_sec) + Double(time.tv_usec) * 1e-6 }
        return seconds(usage.ru_utime) + seconds(usage.ru_stime)
    }
}
