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
        /// Bytes that this rank moved between ranks for a token, as they were counted; 0 without ranks.
        public let communicationBytes: Double
        /// The same by ``TensorParallel/bytes(tokens:rows:)``.
        public let expectedCommunicationBytes: Double

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
        var moved = (prompt: 0, generation: 0)
        for index in 0...repeats {
            let (promptPart, generationPart) = try once()
            guard index > 0 else { continue }
            prompts.append(Double(prompt * batch) / promptPart.seconds)
            generations.append(Double(generate * batch) / generationPart.seconds)
            moved = (promptPart.bytes, generationPart.bytes)
        }
        var rows: [Row] = []
        let ranks = decoder.tensorParallel
        if prompt > 0 {
            let steps = decoder.prefillSteps(prompt)
            let expected = steps.enumerated().reduce(0) {
                $0 + (ranks?.bytes(tokens: $1.element, rows: $1.offset == steps.count - 1 ? 1 : 0) ?? 0)
            }
            rows.append(
                Row(
                    prompt: prompt, generate: 0, batch: batch, samples: prompts,
                    communicationBytes: Double(moved.prompt) / Double(prompt * batch),
                    expectedCommunicationBytes: Double(expected) / Double(prompt)))
        }
        if generate > 0 {
            rows.append(
                Row(
                    prompt: 0, generate: generate, batch: batch, samples: generations,
                    communicationBytes: Double(moved.generation) / Double(generate * batch),
                    expectedCommunicationBytes: Double(ranks?.bytes(tokens: batch, rows: batch) ?? 0) / Double(batch)))
        }
        return rows
    }

    /// One part of a run.
    private typealias Part = (seconds: Double, bytes: Int)

    private func measure(_ body: () throws -> Void) rethrows -> Part {
        let before = decoder.tensorParallel?.communicator.traffic.total.bytes ?? 0
        let time = try ContinuousClock().measure(body)
        let after = decoder.tensorParallel?.communicator.traffic.total.bytes ?? 0
        return (time.inSeconds, after - before)
    }

    private func once() throws -> (prompt: Part, generation: Part) {
        let random = CounterRandom(seed: 1)
        var drawn: UInt64 = 0
        let vocabulary = Double(decoder.configuration.vocabularySize)
        // All ranks run the same tokens.
        func token() -> Int32 {
            drawn += 1
            return Int32(random.uniform(drawn) * vocabulary)
        }
        var sequences = (0..<batch).map { _ in cache.makeSequence() }
        var promptPart: Part = (0, 0)
        if prompt > 0 {
            promptPart = try measure {
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
        let generationPart = try measure {
            for _ in 0..<generate {
                _ = try decoder.forward(
                    sequences.map { DecoderInput(tokens: [token()], sequence: $0, logits: .last) }, cache: cache)
            }
        }
        return (promptPart, generationPart)
    }
}
