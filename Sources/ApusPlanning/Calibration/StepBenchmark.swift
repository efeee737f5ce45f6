import ApusAttention
import ApusEngine
import ApusModels
import ApusTensor

/// Times single steps of a decoder, of many sizes, so that other steps' times can be told from them.
///
/// Products depend on a step's tokens, attention on what they read, the head on the rows that are drawn: each is measured
/// apart, the head right after the layers of the same step, which leave the caches as in any step. The sizes follow each
/// other in every pass, so that a machine that gets slower or faster meets all of them, and each figure is the median of
/// the passes. Within a pass a step is taken again and again, as a server does: what it left in the caches is there.
public struct StepBenchmark {
    /// What was measured.
    public struct Figures: Sendable {
        /// Seconds of the layers by tokens of a step, without what attention takes for what it reads.
        public let layers: [StepCalibration.Point]
        /// Seconds of the head by rows.
        public let head: [StepCalibration.Point]
        /// Steps without prompts, where they run otherwise.
        public let decoding: [StepCalibration.DecodingPoint]
        /// Seconds of attention per cached token that a decoding row reads.
        public let secondsPerContext: Double
        /// Seconds of attention per pair of a query and a key of a prompt.
        public let secondsPerPair: Double
    }

    /// A step to time.
    private struct Step: Hashable {
        var sequences = 1
        var cached = 0
        var tokens = 1
    }

    private static let decoding = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    private static let prompts = [96, 128, 192, 256, 384, 512]
    private static let pageSize = 64
    /// Cached tokens of decoding rows in the table of products.
    private static let few = 32

    private let decoder: Decoder
    private let cache: PagedCache
    private let sequences: Int
    private let pagesPerSequence: Int
    private let longest: Int

    /// A benchmark of a decoder. It takes a cache of 8 sequences of 1,024 tokens, or of 64 of 64, whichever is larger.
    /// - Throws: cache errors when memory does not suffice.
    public init(_ decoder: Decoder, cacheType: DType? = nil) throws {
        self.decoder = decoder
        longest = min(1024, decoder.configuration.maxPositions - 1) / Self.pageSize * Self.pageSize
        guard longest >= 512 else {
            throw EngineError.outOfRange(
                name: "positions of the model", expected: "at least 577, to time long contexts",
                found: decoder.configuration.maxPositions)
        }
        sequences = 8
        pagesPerSequence = longest / Self.pageSize + 1
        cache = try decoder.makeCache(
            pages: max(Self.decoding.last!, sequences * pagesPerSequence), pageSize: Self.pageSize, type: cacheType)
    }

    /// Runs every step `passes` times.
    public func run(passes: Int) throws -> Figures {
        try fill()
        let rows = Self.decoding.map { Step(sequences: $0, cached: Self.few) }
        let chunks = Self.prompts.map { Step(tokens: $0) }
        let long = Step(sequences: sequences, cached: longest)
        let late = Step(cached: longest - 256, tokens: 256)
        let steps = rows + chunks + [long, late]
        var seconds: [Step: [Double]] = [:]
        var heads: [Step: [Double]] = [:]
        for _ in 0..<passes {
            for step in steps {
                let (layers, head) = try steadyTime(step)
                seconds[step, default: []].append(layers)
                heads[step, default: []].append(head)
            }
        }
        func median(_ values: [Double]) -> Double { values.sorted()[values.count / 2] }
        func measured(_ step: Step) -> Double { median(seconds[step]!) }
        let near = Step(sequences: sequences, cached: Self.few)
        let perContext = max(
            (measured(long) - measured(near)) / Double(sequences * (longest - Self.few)), 0)
        let early = Step(tokens: late.tokens)
        let perPair = max((measured(late) - measured(early)) / Double(late.tokens * late.cached), 0)
        let layers =
            rows.map { ($0.sequences, measured($0) - perContext * Double($0.sequences * (Self.few + 1))) }
            + chunks.map { ($0.tokens, measured($0) - perPair * Double($0.tokens * ($0.tokens + 1) / 2)) }
        return Figures(
            layers: layers.map { StepCalibration.Point(rows: $0.0, seconds: max($0.1, 0)) },
            head: rows.map { StepCalibration.Point(rows: $0.sequences, seconds: median(heads[$0]!)) }, decoding: [],
            secondsPerContext: perContext, secondsPerPair: perPair)
    }

    /// Writes every page once.
    private func fill() throws {
        for sequence in 0..<sequences {
            for start in stride(from: 0, to: longest, by: 256) {
                _ = try run(
                    tables: [(pages(of: sequence, count: pagesPerSequence), start, min(256, longest - start))])
            }
        }
        for page in sequences * pagesPerSequence..<max(Self.decoding.last!, sequences * pagesPerSequence) {
            _ = try run(tables: [([Int32(page)], 0, Self.pageSize)])
        }
    }

    private func pages(of sequence: Int, count: Int) -> [Int32] {
        (0..<count).map { Int32(sequence * pagesPerSequence + $0) }
    }

    /// The mean of as many steps as take 40 ms, at most eight, after one that is not counted.
    private func steadyTime(_ step: Step) throws -> (layers: Double, head: Double) {
        let first = try time(step)
        let count = max(min(Int(0.04 / (first.layers + first.head)), 8), 1)
        var (layers, head) = (0.0, 0.0)
        for _ in 0..<count {
            let time = try time(step)
            layers += time.layers
            head += time.head
        }
        return (layers / Double(count), head / Double(count))
    }

    /// Seconds of the layers, and of the head for the last row of each sequence.
    private func time(_ step: Step) throws -> (layers: Double, head: Double) {
        let isShort = step.cached + step.tokens <= Self.pageSize
        let tables = (0..<step.sequences).map { sequence in
            (
                isShort ? [Int32(sequence)] : pages(of: sequence, count: pagesPerSequence), step.cached, step.tokens
            )
        }
        let clock = ContinuousClock()
        let start = clock.now
        let hidden = try run(tables: tables)
        let middle = clock.now
        let rows = hidden.shape[0]
        _ = decoder.logits(ofHidden: hidden.rows(rows - step.sequences..<rows))
        return ((middle - start).inSeconds, (clock.now - middle).inSeconds)
    }

    private func run(tables: [([Int32], Int, Int)]) throws -> Tensor {
        var random = SystemRandomNumberGenerator()
        let vocabulary = Int32(clamping: decoder.configuration.vocabularySize)
        let tokens = (0..<tables.reduce(0) { $0 + $1.2 }).map { _ in Int32.random(in: 0..<vocabulary, using: &random) }
        return try decoder.hiddenStates(tokens, batch: CacheBatch(tables: tables), cache: cache)
    }
}
