import ApusAttention
import ApusTensor

/// Holds the GPU's decoder against the CPU's in float32: `apus check decoder`.
///
/// Ragged prompts of 1 to 200 sequences in shuffled pages, then steps with given tokens: logits are compared. Steps that
/// follow each other on the GPU must choose what single steps choose.
public struct GPUDecoderCheck {
    /// How a model did.
    public struct Outcome: Sendable {
        /// The model, or its shape.
        public let name: String
        /// Sequences, and rows of logits compared.
        public var sequences: Int, rows = 0
        /// ||GPU - CPU|| / ||CPU||, the worst row's.
        public var worstError = 0.0
        /// What was wrong; empty where nothing was.
        public var failures: [String] = []
    }

    /// The largest relative error of a row of logits: activations are rounded to bf16 between products.
    public static let tolerance = 3e-2
    /// Steps after the prompts.
    private static let steps = 5

    private let device: CUDADevice
    private let seed: UInt64

    /// A check whose prompts depend on the seed.
    public init(device: CUDADevice, seed: UInt64) {
        self.device = device
        self.seed = seed
    }

    /// A small Llama.
    static func model(
        _ heads: Int, _ groups: Int, _ head: Int, width: Int, inner: Int, vocabulary: Int, layers: Int = 3,
        style: RotaryStyle = .halfSplit, _ change: (inout DecoderConfiguration) -> Void = { _ in }
    ) -> DecoderConfiguration {
        var model = DecoderConfiguration(
            architecture: .llama, vocabularySize: vocabulary, hiddenSize: width, layerCount: layers,
            queryHeads: heads, kvHeads: groups, headWidth: head, feedForwardWidth: inner,
            rotary: RotaryConfiguration(width: head, style: style), maxPositions: 4096)
        change(&model)
        return model
    }

    /// Small models with random weights, one of each kind that the kernels tell apart.
    public static let shapes: [(name: String, configuration: DecoderConfiguration)] =
        [
            (
                "SmolLM2's layers",
                model(9, 3, 64, width: 576, inner: 1536, vocabulary: 3000) { $0.tiesEmbeddings = true }
            ),
            (
                "norms of queries and keys, biases",
                model(4, 2, 128, width: 256, inner: 520, vocabulary: 777) {
                    $0.queryKeyNorm = true
                    $0.attentionBias = true
                    $0.logitScale = 0.5
                    $0.embeddingScale = 3
                }
            ),
            (
                "heads of their own, pairs of neighbours, windows",
                model(4, 4, 32, width: 136, inner: 200, vocabulary: 501, style: .interleaved) {
                    $0.windows = [40, nil, 200]
                }
            ),
            ("16 heads to a group", model(16, 1, 64, width: 512, inner: 1024, vocabulary: 1000)),
            ("heads of 96", model(4, 2, 96, width: 384, inner: 768, vocabulary: 1000)),
            (
                "GTA-4, 3 heads to a group",
                model(12, 4, 64, width: 384, inner: 768, vocabulary: 1000) {
                    ($0.attention, $0.rotary) = (.tied(rotaryWidth: 32), RotaryConfiguration(width: 32))
                }
            ),
            (
                "GTA-1, heads of 128, biases, pairs of neighbours",
                model(5, 1, 128, width: 264, inner: 520, vocabulary: 777) {
                    ($0.attention, $0.rotary) = (
                        .tied(rotaryWidth: 64), RotaryConfiguration(width: 64, style: .interleaved)
                    )
                    ($0.attentionBias, $0.tiesEmbeddings) = (true, true)
                }
            ),
            (
                "MLA of 256 + 32",
                model(6, 6, 64, width: 384, inner: 768, vocabulary: 1000) {
                    ($0.attention, $0.rotary) = (
                        .latent(.mla(headWidth: 64, rotaryWidth: 32)), RotaryConfiguration(width: 32)
                    )
                }
            ),
            (
                "MLA of 512 + 64, no query latent, values of 96, pairs of neighbours",
                model(5, 5, 128, width: 264, inner: 520, vocabulary: 777) {
                    $0.attention = .latent(
                        LatentConfiguration(
                            latentHeads: 1, latentWidth: 512, rotaryWidth: 64, contentWidth: 128, valueWidth: 96,
                            queryRank: nil))
                    $0.rotary = RotaryConfiguration(width: 64, style: .interleaved)
                }
            ),
            (
                "GLA-2, biases, 3 heads to a latent",
                model(6, 6, 64, width: 384, inner: 768, vocabulary: 1000) {
                    ($0.attention, $0.rotary) = (
                        .latent(.gla(headWidth: 64, rotaryWidth: 32)), RotaryConfiguration(width: 32)
                    )
                }
            ),
            (
                "GLA-2, a query latent each, heads of 48",
                model(8, 8, 48, width: 384, inner: 768, vocabulary: 1000) {
                    var latent = LatentConfiguration.gla(headWidth: 48, rotaryWidth: 48)
                    (latent.latentWidth, latent.splitsQueryLatent) = (96, true)
                    ($0.attention, $0.rotary) = (.latent(latent), RotaryConfiguration(width: 48))
                }
            ),
        ]

    /// Checks a shape with random weights.
    public func run(_ name: String, _ configuration: DecoderConfiguration) throws -> [Outcome] {
        try run(MemoryCheckpoint(random: configuration, seed: seed, name: name))
    }

    /// Small models whose matrices are in blocks of GGUF, by the type of each.
    public static let quantised:
        [(name: String, configuration: DecoderConfiguration, type: @Sendable (TensorRole) -> DType)] = [
            (
                "Q8_0, SmolLM2's layers",
                model(9, 3, 64, width: 576, inner: 1536, vocabulary: 3000) { $0.tiesEmbeddings = true }, { _ in .q8_0 }
            ),
            (
                "Q4_0, norms of queries and keys, biases",
                model(4, 2, 128, width: 288, inner: 544, vocabulary: 777) {
                    ($0.queryKeyNorm, $0.attentionBias) = (true, true)
                }, { _ in .q4_0 }
            ),
            ("Q4_1", model(8, 2, 64, width: 512, inner: 1024, vocabulary: 1000), { _ in .q4_1 }),
            (
                "Q4_K, values, down and head in Q6_K", model(8, 2, 64, width: 512, inner: 768, vocabulary: 1001),
                { role in
                    switch role {
                    case .head, .layer(_, .value), .layer(_, .down): .q6_K
                    default: .q4_K
                    }
                }
            ),
            ("Q6_K", model(4, 4, 64, width: 256, inner: 512, vocabulary: 600) { $0.tiesEmbeddings = true }, { _ in .q6_K }),
            (
                "GLA-2 in Q8_0, 3 heads to a latent",
                model(6, 6, 64, width: 384, inner: 768, vocabulary: 1000) {
                    ($0.attention, $0.rotary) = (
                        .latent(.gla(headWidth: 64, rotaryWidth: 32)), RotaryConfiguration(width: 32)
                    )
                }, { _ in .q8_0 }
            ),
        ]

    /// Checks a shape with random weights in packed types.
    public func run(
        _ name: String, _ configuration: DecoderConfiguration, _ type: (TensorRole) -> DType
    ) throws -> [Outcome] {
        try run(MemoryCheckpoint(random: configuration, seed: seed, name: name, type: type))
    }

    /// Checks a model.
    public func run(_ checkpoint: any Checkpoint) throws -> [Outcome] {
        let limit = min(checkpoint.configuration.maxPositions, 2048)
        let gpu = try GPUDecoder(
            checkpoint: checkpoint, limits: .init(sequences: 200, tokens: limit, pages: 400, chunk: 700),
            device: device)
        let cpu = try Decoder(checkpoint: checkpoint, backend: CPUBackend(precision: .float32))
        var outcomes: [Outcome] = []
        for (sequences, longest) in [(1, 300), (1, 1300), (3, 200), (10, 150), (40, 100), (200, 20)] {
            let longest = min(longest, limit - 2 * Self.steps - 1)
            outcomes.append(try compare(gpu, cpu, sequences: sequences, longest: longest, checkpoint.name))
        }
        return outcomes
    }

    private func compare(
        _ gpu: GPUDecoder, _ cpu: Decoder, sequences: Int, longest: Int, _ name: String
    ) throws -> Outcome {
        var outcome = Outcome(name: name, sequences: sequences)
        var random = SplitMix(state: seed &+ UInt64(sequences * 1000 + longest))
        let vocabulary = UInt64(gpu.configuration.vocabularySize)
        func token() -> Int32 { Int32(random.next() % vocabulary) }
        // The first is as long as can be, the others anything.
        let prompts = (0..<sequences).map { index in
            (0..<(index == 0 ? longest : 1 + Int(random.next() % UInt64(longest)))).map { _ in token() }
        }
        var free = (0..<Int32(gpu.pageCount)).map { $0 }
        for index in free.indices { free.swapAt(index, Int(random.next() % UInt64(free.count))) }
        let rows = prompts.map { prompt in
            let needed = (prompt.count + 2 * Self.steps + GPUDecoder.pageSize) / GPUDecoder.pageSize
            defer { free.removeLast(needed) }
            return GPUDecoder.Row(tokens: prompt, pages: Array(free.suffix(needed)))
        }
        let cache = try cpu.makeCache(tokens: longest + Self.steps, sequences: sequences, type: .f32)
        let held = prompts.map { _ in cache.makeSequence() }

        try gpu.start(rows, logits: true)
        var expected: [[Float]] = []
        for (prompt, sequence) in zip(prompts, held) {
            expected.append(
                try cpu.forward([DecoderInput(tokens: prompt, sequence: sequence)], cache: cache).floats)
        }
        try compare(gpu, expected, "after the prompts", &outcome)
        for step in 0..<Self.steps {
            let tokens = prompts.map { _ in token() }
            try gpu.replaceTokens(tokens)
            try gpu.advance(logits: true)
            let logits = try cpu.forward(
                zip(tokens, held).map { DecoderInput(tokens: [$0], sequence: $1) }, cache: cache
            ).floats
            let width = logits.count / sequences
            expected = (0..<sequences).map { Array(logits[($0 * width)..<(($0 + 1) * width)]) }
            try compare(gpu, expected, "after step \(step)", &outcome)
        }
        try compareRuns(gpu, rows, &outcome)
        return outcome
    }

    private func compare(_ gpu: GPUDecoder, _ expected: [[Float]], _ when: String, _ outcome: inout Outcome) throws {
        let (logits, tokens) = (try gpu.logits(), try gpu.tokens())
        let width = gpu.configuration.vocabularySize
        for (index, row) in expected.enumerated() {
            let found = logits[(index * width)..<((index + 1) * width)]
            var (difference, norm) = (0.0, 0.0)
            for (a, b) in zip(found, row) {
                difference += Double(a - b) * Double(a - b)
                norm += Double(b) * Double(b)
            }
            let error = (difference / norm).squareRoot()
            outcome.rows += 1
            outcome.worstError = max(outcome.worstError, error.isNaN ? .infinity : error)
            if !(error <= Self.tolerance) {
                outcome.failures.append("sequence \(index) of \(expected.count) \(when): logits differ by \(error)")
            }
            let best = found.indices.max { found[$0] < found[$1] }.map { Int32($0 - found.startIndex) }
            if best != tokens[index] {
                outcome.failures.append(
                    "sequence \(index) \(when): token \(tokens[index]), the likeliest is \(best ?? -1)")
            }
        }
    }

    /// The prompts again: steps in one call against single ones, and draws against draws.
    private func compareRuns(_ gpu: GPUDecoder, _ rows: [GPUDecoder.Row], _ outcome: inout Outcome) throws {
        for temperature in [Float(0), 0.8] {
            let rows = rows.enumerated().map { index, row in
                var row = row
                row.choice = GPUDecoder.Choice(temperature: temperature, seed: UInt64(index) + seed)
                return row
            }
            try gpu.start(rows)
            var single = try gpu.tokens().map { [$0] }
            for _ in 0..<Self.steps {
                try gpu.advance()
                for (index, token) in try gpu.tokens().enumerated() { single[index].append(token) }
            }
            try gpu.start(rows)
            try gpu.advance(steps: Self.steps)
            for (index, row) in rows.enumerated() {
                let range = row.tokens.count..<row.tokens.count + Self.steps + 1
                let found = try gpu.history(range)[index]
                if found != single[index] {
                    outcome.failures.append(
                        "sequence \(index), temperature \(temperature): \(found) in one call, "
                            + "\(single[index]) in single steps")
                }
            }
        }
    }
}

/// Random numbers from a seed.
struct SplitMix {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
}
