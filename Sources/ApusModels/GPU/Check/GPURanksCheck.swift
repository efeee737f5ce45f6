import ApusAttention
import ApusDistributed
import ApusTensor

/// Holds a decoder that is cut over ranks, a GPU each, against one that has all of the model on one GPU: `apus check ranks
/// --device cuda`. Every rank compares for itself.
public struct GPURanksCheck {
    /// How a model did on this rank.
    public struct Outcome: Sendable {
        /// The model.
        public let name: String
        /// Whether steps summed without NCCL.
        public var readsPeers = false
        /// Rows of logits compared.
        public var rows = 0
        /// ||cut - whole|| / ||whole||, the worst row's.
        public var worstError = 0.0
        /// Tokens drawn, and those of them that both draw.
        public var draws = 0, equalDraws = 0
        /// What was wrong; empty where nothing was.
        public var failures: [String] = []
    }

    /// The largest relative error of a row of logits: both round activations to bf16, and ranks their parts of sums too.
    public static let tolerance = 3e-2
    private static let steps = 4
    private static let draws = 10

    private let communicator: any Communicator
    private let device: CUDADevice
    private let seed: UInt64

    /// A check of ranks on GPUs; all of them run it.
    /// - Throws: where they are not on GPUs.
    public init(_ communicator: any Communicator, seed: UInt64) throws {
        guard let stream = communicator.stream else {
            throw GPUDecoderError.unsupported(name: "ranks", found: "some on CPUs", expected: "ranks on GPUs")
        }
        self.communicator = communicator
        self.seed = seed
        device = stream.device
    }

    /// Small models of all six variants that 2, 4 and 8 ranks divide; the vocabularies they do not.
    public static let shapes: [(name: String, configuration: DecoderConfiguration)] = {
        func model(
            _ groups: Int, vocabulary: Int = 1003, _ change: (inout DecoderConfiguration) -> Void = { _ in }
        ) -> DecoderConfiguration {
            GPUDecoderCheck.model(16, groups, 64, width: 384, inner: 768, vocabulary: vocabulary, change)
        }
        func latent(_ change: @escaping (inout LatentConfiguration) -> Void) -> (inout DecoderConfiguration) -> Void {
            { model in
                var latent = LatentConfiguration.gla(headWidth: 64, rotaryWidth: 32)
                change(&latent)
                (model.attention, model.rotary) = (.latent(latent), RotaryConfiguration(width: 32))
            }
        }
        return [
            ("MHA, tied embeddings", model(16) { $0.tiesEmbeddings = true }),
            (
                "GQA-8, biases, norms of queries and keys",
                model(8) { ($0.queryKeyNorm, $0.attentionBias) = (true, true) }
            ),
            ("MQA", model(1)),
            (
                "GTA-4, biases",
                model(4) {
                    ($0.attention, $0.rotary) = (.tied(rotaryWidth: 32), RotaryConfiguration(width: 32))
                    $0.attentionBias = true
                }
            ),
            ("MLA", model(16, latent { $0 = .mla(headWidth: 64, rotaryWidth: 32) })),
            ("GLA-2", model(16, latent { _ in })),
            (
                "GLA-8, a query latent each",
                model(16, vocabulary: 999, latent { ($0.latentHeads, $0.splitsQueryLatent) = (8, true) })
            ),
        ]
    }()

    /// Checks a shape with random weights.
    public func run(_ name: String, _ configuration: DecoderConfiguration) throws -> Outcome {
        let checkpoint = try MemoryCheckpoint(random: configuration, seed: seed, name: name)
        let limits = GPUDecoder.Limits(sequences: 48, tokens: 512, pages: 160, chunk: 500)
        let whole = try GPUDecoder(checkpoint: checkpoint, limits: limits, device: device)
        let cut = try GPUDecoder(
            checkpoint: checkpoint, limits: limits, device: device,
            ranks: TensorParallel(configuration, over: communicator))
        var outcome = Outcome(name: name, readsPeers: cut.readsPeers)
        for (sequences, longest) in [(1, 300), (5, 200), (48, 60)] {
            let rows = rows(sequences, longest, configuration)
            try compare(cut, whole, rows, &outcome)
            try compareRuns(cut, whole, rows, &outcome)
        }
        if outcome.equalDraws * 2 < outcome.draws {
            outcome.failures.append("of \(outcome.draws) draws only \(outcome.equalDraws) are those of one GPU")
        }
        return outcome
    }

    private func rows(_ sequences: Int, _ longest: Int, _ model: DecoderConfiguration) -> [GPUDecoder.Row] {
        var random = SplitMix(state: seed &+ UInt64(sequences))
        var next: Int32 = 0
        return (0..<sequences).map { index in
            let count = index == 0 ? longest : 1 + Int(random.next() % UInt64(longest))
            let pages = Int32((count + Self.draws + GPUDecoder.pageSize) / GPUDecoder.pageSize)
            defer { next += pages }
            return GPUDecoder.Row(
                tokens: (0..<count).map { _ in Int32(random.next() % UInt64(model.vocabularySize)) },
                pages: (next..<next + pages).reversed())
        }
    }

    /// Logits after prompts and after steps with given tokens, as a graph and as an engine runs them.
    private func compare(
        _ cut: GPUDecoder, _ whole: GPUDecoder, _ rows: [GPUDecoder.Row], _ outcome: inout Outcome
    ) throws {
        for decoder in [whole, cut] { try decoder.start(rows, logits: true) }
        try compare(cut.logits(), whole.logits(), tokens: cut.tokens(), "after the prompts", &outcome)
        var random = SplitMix(state: seed)
        let vocabulary = UInt64(cut.configuration.vocabularySize)
        for step in 0..<Self.steps {
            let tokens = rows.map { _ in Int32(random.next() % vocabulary) }
            for decoder in [whole, cut] {
                try decoder.replaceTokens(tokens)
                try decoder.advance(logits: true)
            }
            try compare(cut.logits(), whole.logits(), tokens: cut.tokens(), "after step \(step)", &outcome)
        }
        guard rows.reduce(0, { $0 + $1.tokens.count }) <= cut.limits.chunk else { return }
        for decoder in [whole, cut] { try decoder.runLayers(rows) }
        let ends = rows.reduce(into: [Int]()) { $0.append(($0.last ?? -1) + $1.tokens.count) }
        let found = try cut.logits(ofRows: ends)
        try compare(found, whole.logits(ofRows: ends), tokens: cut.likeliestTokens(ofRows: ends), "of rows", &outcome)
    }

    private func compare(
        _ found: [Float], _ expected: [Float], tokens: [Int32], _ when: String, _ outcome: inout Outcome
    ) throws {
        let width = found.count / tokens.count
        for (index, token) in tokens.enumerated() {
            let row = index * width..<(index + 1) * width
            var (difference, norm) = (0.0, 0.0)
            for place in row {
                let (a, b) = (Double(found[place]), Double(expected[place]))
                difference += (a - b) * (a - b)
                norm += b * b
            }
            let error = (difference / norm).squareRoot()
            outcome.rows += 1
            outcome.worstError = max(outcome.worstError, error.isNaN ? .infinity : error)
            if !(error <= Self.tolerance) {
                outcome.failures.append("sequence \(index) of \(tokens.count) \(when): logits differ by \(error)")
            }
            let best = row.max { found[$0] < found[$1] }.map { Int32($0 - row.lowerBound) }
            if best != token {
                outcome.failures.append(
                    "sequence \(index) \(when): token \(token), the likeliest is \(best ?? -1)")
            }
        }
    }

    /// Steps that follow each other against single ones, on all ranks; and draws against those of one GPU.
    private func compareRuns(
        _ cut: GPUDecoder, _ whole: GPUDecoder, _ rows: [GPUDecoder.Row], _ outcome: inout Outcome
    ) throws {
        for temperature in [Float(0), 0.8] {
            let rows = rows.enumerated().map { index, row in
                var row = row
                row.choice = GPUDecoder.Choice(temperature: temperature, seed: UInt64(index) + seed)
                return row
            }
            try cut.start(rows)
            var single = try cut.tokens().map { [$0] }
            for _ in 1..<Self.draws {
                try cut.advance()
                for (index, token) in try cut.tokens().enumerated() { single[index].append(token) }
            }
            for decoder in [whole, cut] {
                try decoder.start(rows, logProbabilities: true)
                try decoder.advance(steps: Self.draws - 1, logProbabilities: true)
            }
            let ranges = rows.map { $0.tokens.count..<$0.tokens.count + Self.draws }
            let (found, expected) = (try cut.chosen(ranges), try whole.chosen(ranges))
            for (index, sequence) in found.enumerated() {
                if sequence.tokens != single[index] {
                    outcome.failures.append(
                        "sequence \(index), temperature \(temperature): \(sequence.tokens) in one call, \(single[index]) in single steps"
                    )
                }
                if !sequence.logProbabilities.allSatisfy({ $0 <= 1e-4 && $0 > -100 }) {
                    outcome.failures.append("sequence \(index): log-probabilities \(sequence.logProbabilities)")
                }
                // As long as both have chosen the same, they choose with the same noise among almost the same logits.
                let equal = zip(sequence.tokens, expected[index].tokens).prefix { $0 == $1 }.count
                outcome.equalDraws += equal
                outcome.draws += min(equal + 1, Self.draws)
            }
            let own = Tensor(found.flatMap { $0.tokens })
            let most = Tensor(found.flatMap { $0.tokens })
            try communicator.onHost.allReduce(most, .max)
            if own.withElements(of: Int32.self, { Array($0) }) != most.withElements(of: Int32.self, { Array($0) }) {
                outcome.failures.append("temperature \(temperature): other ranks have chosen other tokens")
            }
        }
    }
}
