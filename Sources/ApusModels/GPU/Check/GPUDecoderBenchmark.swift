import ApusTensor

/// Times prompts and decode steps of a model on a GPU: `apus bench decode --device cuda`.
public struct GPUDecoderBenchmark {
    /// One measured batch.
    public struct Row: Sendable {
        /// Sequences, prompt tokens and generated tokens of each.
        public let batch: Int, prompt: Int, generate: Int
        /// Seconds of the prompts, where there were some, and of the decode steps, of each repetition.
        public let promptSeconds: [Double], generationSeconds: [Double]

        /// Tokens a second of all sequences together, the median.
        public var promptTokensPerSecond: Double { Double(batch * prompt) / Self.median(promptSeconds) }
        /// Likewise; the token that the prompts end with is not counted.
        public var generatedTokensPerSecond: Double { Double(batch * generate) / Self.median(generationSeconds) }

        private static func median(_ values: [Double]) -> Double {
            let sorted = values.sorted()
            let middle = sorted.count / 2
            return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
        }
    }

    private let decoder: GPUDecoder

    /// A benchmark of a decoder.
    public init(_ decoder: GPUDecoder) {
        self.decoder = decoder
    }

    /// Pages that hold a sequence of the benchmark.
    public static func pages(prompt: Int, generate: Int) -> Int {
        (prompt + generate + GPUDecoder.pageSize - 1) / GPUDecoder.pageSize
    }

    /// Runs once without timing, then `repeats` times: random prompts in shuffled pages, then steps that choose the likeliest
    /// token. Prompts end when the first chosen tokens are on the host, steps when the last are.
    /// - Parameter cached: where it is not 0, steps begin after so many tokens of pages that are empty, without prompts.
    public func run(batch: Int, prompt: Int, generate: Int, cached: Int = 0, repeats: Int) throws -> Row {
        var random = SplitMix(state: 1)
        let needed = Self.pages(prompt: max(prompt, cached), generate: generate)
        var pages = (0..<Int32(batch * needed)).map { $0 }
        for index in pages.indices { pages.swapAt(index, Int(random.next() % UInt64(pages.count))) }
        let vocabulary = UInt64(decoder.configuration.vocabularySize)
        let rows = (0..<batch).map { index in
            GPUDecoder.Row(
                tokens: (0..<(cached > 0 ? 1 : max(prompt, 1))).map { _ in Int32(random.next() % vocabulary) },
                cached: cached,
                pages: Array(pages[(index * needed)..<((index + 1) * needed)]))
        }
        var (prompts, generations): ([Double], [Double]) = ([], [])
        for index in 0...repeats {
            try decoder.synchronize()
            let first = try ContinuousClock().measure {
                if cached > 0 { return try decoder.load(rows) }
                try decoder.start(rows)
                _ = try decoder.tokens()
            }
            let second = try ContinuousClock().measure {
                try decoder.advance(steps: generate)
                _ = try decoder.tokens()
            }
            guard index > 0 else { continue }
            if cached == 0 { prompts.append(first.inSeconds) }
            generations.append(second.inSeconds)
        }
        return Row(
            batch: batch, prompt: max(prompt, 1), generate: generate, promptSeconds: prompts,
            generationSeconds: generations)
    }
}
