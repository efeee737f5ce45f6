import ApusEngine
import ApusModels

/// Times single steps of a decoder on a GPU, as ``StepBenchmark`` does on the CPU.
///
/// Steps of one token a sequence are recorded graphs with the head in them, measured with few and with many cached tokens for
/// each number of sequences that graphs are recorded for. Others run as chunks of prompts; their head is measured after the
/// layers are done. Every step is taken as the engine takes it: from page tables on the host to tokens there, the likeliest.
public struct GPUStepBenchmark {
    /// Sequences of the largest recorded step.
    public static let sequences = 64
    /// Tokens of a sequence that its pages hold.
    public static let context = 1024
    /// Tokens of the largest chunk.
    public static let chunk = 8192

    /// What a decoder needs for this.
    public static var limits: GPUDecoder.Limits {
        GPUDecoder.Limits(
            sequences: sequences, tokens: context, pages: sequences * pagesPerSequence, chunk: chunk)
    }

    private static let pagesPerSequence = context / GPUDecoder.pageSize
    private static let decoding = [1, 2, 4, 8, 16, 32, 48, 64]
    private static let prompts = [16, 64, 128, 256, 512, 1024, 2048, 4096, 8192]
    private static let (few, many) = (32, 960)
    /// Tokens of each sequence whose last row the head is measured with.
    private static let headTokens = 16

    private let decoder: GPUDecoder

    /// A benchmark of a decoder.
    /// - Parameter decoder: one made with ``limits``.
    /// - Throws: ``EngineError`` where the model has fewer positions than ``context``.
    public init(_ decoder: GPUDecoder) throws {
        let positions = decoder.configuration.maxPositions
        guard positions >= Self.context else {
            throw EngineError.outOfRange(
                name: "positions of the model", expected: "at least \(Self.context), to time long contexts",
                found: positions)
        }
        self.decoder = decoder
    }

    private enum Step: Hashable {
        case decode(sequences: Int, cached: Int)
        /// `tokens` in sequences of at most `longest`, each after `cached`.
        case prompt(tokens: Int, longest: Int, cached: Int)
    }

    /// Runs every step `passes` times, after one that is not counted.
    public func run(passes: Int) throws -> StepBenchmark.Figures {
        try fill()
        let late = Step.prompt(tokens: 512, longest: 512, cached: 512)
        let decodes = Self.decoding.flatMap {
            [Step.decode(sequences: $0, cached: Self.few), .decode(sequences: $0, cached: Self.many)]
        }
        let chunks = Self.prompts.map { Step.prompt(tokens: $0, longest: Self.context, cached: 0) } + [late]
        let heads = Self.decoding.map {
            Step.prompt(tokens: $0 * Self.headTokens, longest: Self.headTokens, cached: 0)
        }
        var times: [Step: [(layers: Double, head: Double)]] = [:]
        for pass in 0...passes {
            for step in decodes + chunks + heads {
                // What is compiled or recorded at the first time does not count, nor does what another step left.
                _ = try time(step)
                let time = try time(step)
                if pass > 0 { times[step, default: []].append(time) }
            }
        }
        func median(_ step: Step, _ part: KeyPath<(layers: Double, head: Double), Double>) -> Double {
            let values = times[step]!.map { $0[keyPath: part] }.sorted()
            return values[values.count / 2]
        }
        let early = Step.prompt(tokens: 512, longest: Self.context, cached: 0)
        let perPair = max((median(late, \.layers) - median(early, \.layers)) / Double(512 * 512), 0)
        let decoding = Self.decoding.map { count in
            let short = median(.decode(sequences: count, cached: Self.few), \.layers)
            let long = median(.decode(sequences: count, cached: Self.many), \.layers)
            let perContext = max((long - short) / Double(count * (Self.many - Self.few)), 0)
            return StepCalibration.DecodingPoint(
                rows: count, seconds: max(short - perContext * Double(count * (Self.few + 1)), 0),
                secondsPerContext: perContext)
        }
        return StepBenchmark.Figures(
            layers: Self.prompts.map { tokens in
                let pairs = Self.lengths(tokens, longest: Self.context).reduce(0) { $0 + $1 * ($1 + 1) / 2 }
                let seconds = median(.prompt(tokens: tokens, longest: Self.context, cached: 0), \.layers)
                return .init(rows: tokens, seconds: max(seconds - perPair * Double(pairs), 0))
            },
            head: zip(Self.decoding, heads).map { .init(rows: $0, seconds: median($1, \.head)) },
            decoding: decoding, secondsPerContext: decoding[decoding.count - 1].secondsPerContext,
            secondsPerPair: perPair)
    }

    private static func lengths(_ tokens: Int, longest: Int) -> [Int] {
        stride(from: 0, to: tokens, by: longest).map { min(longest, tokens - $0) }
    }

    /// Writes every page once.
    private func fill() throws {
        let together = Self.chunk / Self.context
        for first in stride(from: 0, to: Self.sequences, by: together) {
            try decoder.runLayers(
                (first..<first + together).map { row(sequence: $0, tokens: Self.context, cached: 0) })
        }
    }

    private func row(sequence: Int, tokens: Int, cached: Int) -> GPUDecoder.Row {
        let vocabulary = Int32(clamping: decoder.configuration.vocabularySize)
        let first = sequence * Self.pagesPerSequence
        return GPUDecoder.Row(
            tokens: (0..<tokens).map { _ in Int32.random(in: 0..<vocabulary) }, cached: cached,
            pages: (first..<first + Self.pagesPerSequence).map { Int32($0) })
    }

    private func time(_ step: Step) throws -> (layers: Double, head: Double) {
        let clock = ContinuousClock()
        switch step {
        case .decode(let sequences, let cached):
            let rows = (0..<sequences).map { row(sequence: $0, tokens: 1, cached: cached) }
            // Few steps follow each other as in the engine, so that the GPU's clocks are those of steady work.
            let repeats = 4
            let start = clock.now
            for _ in 0..<repeats {
                try decoder.load(rows)
                try decoder.advance(logits: true)
                _ = try decoder.tokens()
            }
            return ((clock.now - start).inSeconds / Double(repeats), 0)
        case .prompt(let tokens, let longest, let cached):
            let rows = Self.lengths(tokens, longest: longest).enumerated().map {
                row(sequence: $0.offset, tokens: $0.element, cached: cached)
            }
            var end = -1
            let lasts = rows.map {
                end += $0.tokens.count
                return end
            }
            let start = clock.now
            try decoder.runLayers(rows)
            _ = try decoder.normalizedStates(0..<1)
            let middle = clock.now
            _ = try decoder.likeliestTokens(ofRows: lasts)
            return ((middle - start).inSeconds, (clock.now - middle).inSeconds)
        }
    }
}
