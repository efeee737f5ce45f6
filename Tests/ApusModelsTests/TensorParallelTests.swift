import ApusAttention
import ApusDistributed
import ApusModels
import ApusTensor
import Testing

/// Models cut over ranks (threads here) against the whole.
@Suite struct TensorParallelTests {
    private static func base(_ kvHeads: Int) -> DecoderConfiguration {
        DecoderConfiguration(
            architecture: .llama, vocabularySize: 61, hiddenSize: 40, layerCount: 2, queryHeads: 8, kvHeads: kvHeads,
            headWidth: 10, feedForwardWidth: 52, rotary: RotaryConfiguration(width: 10), maxPositions: 256)
    }

    private static func latent(_ heads: Int, rank: Int?, splits: Bool = false) -> DecoderConfiguration {
        var configuration = base(8)
        configuration.rotary = RotaryConfiguration(width: 4)
        configuration.attention = .latent(
            LatentConfiguration(
                latentHeads: heads, latentWidth: 18, rotaryWidth: 4, contentWidth: 10, valueWidth: 6, queryRank: rank,
                splitsQueryLatent: splits, hasDownBias: true, hasUpBias: true))
        return configuration
    }

    /// All variants, with groups that divide over the ranks and groups that are kept twice or more.
    static let variants: [String: DecoderConfiguration] = {
        var tied = base(2)
        tied.rotary = RotaryConfiguration(width: 4)
        tied.attention = .tied(rotaryWidth: 4)
        tied.attentionBias = true
        var qwen = base(4)
        qwen.queryKeyNorm = true
        qwen.attentionBias = true
        qwen.attentionOutputBias = true
        qwen.tiesEmbeddings = true
        qwen.windows[1] = 5
        return [
            "mha": base(8), "mqa": base(1), "gqa": base(4), "gqa of two": base(2),
            "gqa with norms, biases and a window": qwen, "gta": tied, "mla": latent(1, rank: 14),
            "mla with full queries": latent(1, rank: nil), "gla": latent(2, rank: 14),
            "gla of four": latent(4, rank: 12),
            "gla_q": latent(2, rank: 14, splits: true), "gla_q of four": latent(4, rank: 12, splits: true),
        ]
    }()

    static let names = variants.keys.sorted()
    private static let tokens: [Int32] = (0..<90).map { Int32(($0 * 37 + 11) % 61) }

    /// Logits of a prompt in pieces and of single tokens.
    private static func rows(_ decoder: Decoder, _ pieces: [Int]) throws -> [Float] {
        let cache = try decoder.makeCache(tokens: tokens.count, type: .f32)
        let sequence = cache.makeSequence()
        var (rows, start) = ([Float](), 0)
        for count in pieces {
            let input = DecoderInput(
                tokens: Array(tokens[start..<start + count]), sequence: sequence, logits: .all)
            rows += try decoder.forward([input], cache: cache).floats
            start += count
        }
        return rows
    }

    private static let pieces = [64, 1, 1, 3, 20, 1]

    private static func compare(_ checkpoint: some Checkpoint, _ ranks: Int) throws {
        let whole = try rows(Decoder(checkpoint: checkpoint, backend: CPUBackend(threads: 1)), pieces)
        let parts = try ThreadedRanks.run(ranks) { communicator in
            let cut = try TensorParallel(checkpoint.configuration, over: communicator)
            let decoder = try Decoder(checkpoint: checkpoint, backend: CPUBackend(threads: 1), ranks: cut)
            let before = communicator.traffic.total.bytes
            let rows = try Self.rows(decoder, pieces)
            let expected = pieces.reduce(0) { $0 + cut.bytes(tokens: $1, rows: $1) }
            #expect(communicator.traffic.total.bytes - before == expected)
            return rows
        }
        for part in parts {
            #expect(FamilyLogitsTests.relativeError(part, whole) <= 1e-5)
            #expect(part == parts[0], "ranks see other bits")
        }
    }

    @Test(arguments: names, [2, 4]) func logitsEqualOneRanks(_ name: String, _ ranks: Int) throws {
        let model = try TrainableDecoder(
            initializing: Self.variants[name]!, seed: 3, deviation: 0.3, on: DifferentiableOperations())
        // Biases are drawn too: a bias of zero hides being added once a rank.
        for (index, (_, parameter)) in model.parameters().enumerated() where parameter.shape.rank == 1 {
            parameter.update { value, _ in
                value.withMutableElements(of: Float.self) { elements in
                    for i in elements.indices { elements[i] += Float((i * 7 + index) % 5) / 10 }
                }
                return false
            }
        }
        try Self.compare(MemoryCheckpoint(model), ranks)
    }

    /// Mixtures of experts, fused projections, parallel residuals, bf16 weights.
    @Test(arguments: ["deepseek-v2-lite", "deepseek-v2", "deepseek-v3", "gptneox", "llama-bf16", "mistral-window"])
    func familiesEqualOneRank(_ name: String) throws {
        let path = FamilyLogitsTests.folder.appending(path: name).path
        let checkpoint = try Checkpoints.open(path)
        guard (try? ModelSharding(checkpoint.configuration, rank: 0, ranks: 2)) != nil else {
            Issue.record("\(name) does not divide")
            return
        }
        func compare(_ checkpoint: some Checkpoint) throws {
            let tokens = Array(try FamilyLogitsTests.Expected(name).tokens[0].prefix(40))
            let whole = try Decoder(checkpoint: checkpoint, backend: CPUBackend(threads: 1)).logits(of: tokens)
            let parts = try ThreadedRanks.run(2) { communicator in
                let cut = try TensorParallel(checkpoint.configuration, over: communicator)
                return try Decoder(checkpoint: checkpoint, backend: CPUBackend(threads: 1), ranks: cut)
                    .logits(of: tokens)
            }
            // Activations of bf16 weights are rounded, so a sum of two parts differs by its roundings.
            let tolerance: Float = name == "llama-bf16" ? 1e-2 : 1e-5
            #expect(FamilyLogitsTests.relativeError(parts[1].flatMap { $0 }, whole.flatMap { $0 }) <= Double(tolerance))
        }
        try compare(checkpoint)
    }

    @Test func whatDoesNotDivideIsNamed() throws {
        var small = Self.base(3)
        small.queryHeads = 9
        #expect(throws: GeometryError.ranksDoNotDivideHeads(ranks: 2, queryHeads: 9)) {
            try ModelSharding(small, rank: 0, ranks: 2)
        }
        var groups = Self.base(3)
        groups.queryHeads = 12
        #expect(throws: GeometryError.ranksDoNotFitGroups(ranks: 2, groups: 3)) {
            try ModelSharding(groups, rank: 0, ranks: 2)
        }
        var width = Self.base(8)
        width.feedForwardWidth = 51
        #expect(throws: ShardingError.width("feed-forward width", 51, ranks: 2)) {
            try ModelSharding(width, rank: 0, ranks: 2)
        }
    }

    @Test func copiesAreReported() throws {
        #expect(try ModelSharding(Self.base(8), rank: 0, ranks: 4).duplicationNote == nil)
        #expect(
            try ModelSharding(Self.base(2), rank: 0, ranks: 4).duplicationNote
                == "2 cache groups over 4 ranks: each is kept 2 times")
    }

    /// Columns of packed blocks stay packed where the cut falls between blocks, and are expanded where it does not.
    @Test func packedColumnsAreCutAtBlocks() throws {
        let source = Tensor((0..<256).map { Float($0 % 17) - 8 }, shape: [2, 128])
        let packed = try source.encoded(as: .q8_0, backend: CPUBackend(threads: 1))
        let sharding = try ModelSharding(Self.base(8), rank: 1, ranks: 2)
        let half = try sharding.part(packed, .columns(64..<128))
        #expect(half.dtype == .q8_0 && half.shape == [2, 64])
        let odd = try sharding.part(packed, .columns(48..<96))
        #expect(odd.dtype == .f32 && odd.shape == [2, 48])
        let expected = try packed.float32().floats
        #expect(try half.float32().floats == Array(expected[64..<128] + expected[192..<256]))
        #expect(odd.floats == Array(expected[48..<96] + expected[176..<224]))
    }
}
