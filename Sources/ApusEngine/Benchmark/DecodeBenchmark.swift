import ApusAttention
import ApusModels
import ApusTensor

/// Times prefill and decoding of a model on random tokens, as llama-bench and llama-batched-bench do: logits are computed,
/// nothing is sampled.
public struct DecodeBenchmark {
    /// One measured figure.
    public struct Row: Sendable {
        /// Prompt tokens a sequence, when the prompt was timed; otherwise 0.
        public let prompt: Int
        /// Tokens generated a sequence, when generation was timed; otherwise 0.
        public let generate: Int
        /// Sequences.
        public let batch: Int
        /// Tokens per second of all sequences together, of each repetition.
        public let samples: [Double]

        /// Median over the repetitions.
        public var tokensPerSecond: Double {
            let sorted = samples.sorted()
            let middle = sorted.count / 2
            return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
        }
    }

    private let decoder: Decoder
    private let prompt: Int
    private let generate: Int
    private let batch: Int
    private let cache: PagedCache

    /// A benchmark of `batch` sequences with `prompt` tokens each, then `generate` more.
    /// - Throws: cache errors when memory does not suffice.
    public init(_ decoder: Decoder, prompt: Int, generate: Int, batch: Int, cacheType: DType? = nil) throws {
        self.decoder = decoder
        self.prompt = prompt
        self.generate = generate
        self.batch = batch
        cache = try decoder.makeCache(tokens: prompt + generate + 1, sequences: batch, type: cacheType)
    }

    /// Runs once without timing, then `repeats` times.
    ///
    /// With one sequence, generation starts from an empty cache (llama-bench); with more, after the prompts
    /// (llama-batched-bench).
    public func run(repeats: Int) throws -> [Row] {
        var prompts: [Double] = []
        var generations: [Double] = []
        for index in 0...repeats {
            let (promptSeconds, generationSeconds) = try once()
            guard index > 0 else { continue }
            prompts.append(Double(prompt * batch) / promptSeconds)
            generations.append(Double(generate * batch) / generationSeconds)
        }
        var rows: [Row] = []
        if prompt > 0 { rows.append(Row(prompt: prompt, generate: 0, batch: batch, samples: prompts)) }
        if generate > 0 { rows.append(Row(prompt: 0, generate: generate, batch: batch, samples: generations)) }
        return rows
    }

    private func once() throws -> (Double, Double) {
        let clock = ContinuousClock()
        var random = SystemRandomNumberGenerator()
        let vocabulary = Int32(clamping: decoder.configuration.vocabularySize)
        func token() -> Int32 { Int32.random(in: 0..<vocabulary, using: &random) }
        var sequences = (0..<batch).map { _ in cache.makeSequence() }
        var promptTime = Duration.zero
        if prompt > 0 {
            promptTime = try clock.measure {
                for sequence in sequences {
                    var left = prompt
                    for count in decoder.prefillSteps(prompt) {
                        left -= count
                        let tokens = (0..<count).map { _ in token() }
                        let wanted: DecoderInput.Logits = left == 0 ? .last : .none
                        _ = try decoder.forward(
                            [DecoderInput(tokens: tokens, sequence: sequence, logits: wanted)], cache: cache)
                    }
                }
            }
        }
        if batch == 1 {
            sequences[0] = cache.makeSequence()
        }
        let generationTime = try clock.measure {
            for _ in 0..<generate {
                _ = try decoder.forward(
                    sequences.map { DecoderInput(tokens: [token()], sequence: $0, logits: .last) }, cache: cache)
            }
        }
        return (promptTime.inSeconds, generationTime.inSeconds)
    }
}
