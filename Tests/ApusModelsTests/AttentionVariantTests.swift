import ApusAttention
import ApusModels
import ApusTensor
import Testing

/// Tied and latent attention, mixtures of experts: the decode form against the formulas in float64 and against transformers
/// (Tests/Fixtures/attention_models.py), over sequences that absorbed and explicit reading share.
@Suite struct AttentionVariantTests {
    static let formulas = ["gta", "gla", "gla-split", "mla"]
    static let families = ["deepseek-v2-lite", "deepseek-v2", "deepseek-v3", "minicpm3"]

    private func decoder(_ name: String, blockTokens: Int? = 64) throws -> Decoder {
        let path = FamilyLogitsTests.folder.appending(path: name).path
        return try Decoder(
            checkpoint: try Checkpoints.open(path), backend: CPUBackend(threads: 2), latentBlockTokens: blockTokens)
    }

    /// Logits of a sequence fed in pieces.
    private func logits(
        _ decoder: Decoder, _ tokens: [Int32], pieces: [Int], _ reading: LatentReading? = nil
    ) throws -> [Float] {
        let cache = try decoder.makeCache(tokens: tokens.count)
        let sequence = cache.makeSequence()
        var rows: [Float] = []
        var start = 0
        for count in pieces {
            let input = DecoderInput(
                tokens: Array(tokens[start..<start + count]), sequence: sequence, logits: .all)
            rows += try decoder.forward([input], cache: cache, latentReading: reading).floats
            start += count
        }
        #expect(start == tokens.count)
        return rows
    }

    private static let readings: [LatentReading?] = [nil, .absorbed, .explicit]

    @Test(arguments: formulas, readings)
    func logitsEqualTheFormulas(_ name: String, _ reading: LatentReading?) throws {
        let expected = try FamilyLogitsTests.Expected(name)
        let decoder = try decoder(name)
        let found = try logits(decoder, expected.tokens[0], pieces: [expected.tokens[0].count], reading)
        #expect(FamilyLogitsTests.relativeError(found, expected.values) <= 1e-5)
    }

    @Test(arguments: families, readings)
    func logitsEqualTransformers(_ name: String, _ reading: LatentReading?) throws {
        let expected = try FamilyLogitsTests.Expected(name)
        let decoder = try decoder(name)
        let found = try logits(decoder, expected.tokens[0], pieces: [expected.tokens[0].count], reading)
        #expect(FamilyLogitsTests.relativeError(found, expected.values) <= 2e-5)
    }

    /// Token by token, 2 to 5 tokens at a time, and chunks that are read explicitly over a cached prefix.
    @Test(arguments: formulas + families, [64, 128, nil])
    func anyCutGivesTheLogitsOfOnePass(_ name: String, _ blockTokens: Int?) throws {
        // LongRoPE rotates by the length so far, as transformers does with its cache: cuts below the original context differ.
        guard name != "minicpm3" else { return }
        let tokens = try FamilyLogitsTests.Expected(name).tokens[0]
        let decoder = try decoder(name, blockTokens: blockTokens)
        let whole = try logits(decoder, tokens, pieces: [tokens.count])
        var small: [Int] = []
        while small.reduce(0, +) < tokens.count {
            small.append(min(small.count % 5 + 1, tokens.count - small.reduce(0, +)))
        }
        for reading in Self.readings {
            for pieces in [[Int](repeating: 1, count: tokens.count), small, [100, 50], [33, 1, 90, 5, 21], [3, 147]] {
                let found = try logits(decoder, tokens, pieces: pieces, reading)
                #expect(FamilyLogitsTests.relativeError(found, whole) <= 1e-5, "\(pieces)")
            }
        }
    }

    /// A batch of sequences, of which the longest is read explicitly and the others absorbed.
    @Test(arguments: formulas + families) func sequencesOfABatchDoNotMix(_ name: String) throws {
        let tokens = try [[Int32]](repeating: FamilyLogitsTests.Expected(name).tokens[0], count: 5).flatMap { $0 }
        let decoder = try decoder(name)
        let cuts = [0..<1, 20..<23, 10..<710, 0..<64, 5..<6, 50..<150]
        let cache = try decoder.makeCache(tokens: 704, sequences: cuts.count)
        let inputs = cuts.map {
            DecoderInput(tokens: Array(tokens[$0]), sequence: cache.makeSequence(), logits: .all)
        }
        let found = try decoder.forward(inputs, cache: cache).floats
        let expected = try cuts.flatMap { try logits(decoder, Array(tokens[$0]), pieces: [$0.count], .absorbed) }
        #expect(FamilyLogitsTests.relativeError(found, expected) <= 1e-5)
    }

    /// Narrow caches stay within their rounding, whichever way they are read.
    @Test(arguments: formulas, [DType.bf16, .f16, .q8_0])
    func narrowCachesAreRead(_ name: String, _ type: DType) throws {
        let expected = try FamilyLogitsTests.Expected(name)
        let decoder = try decoder(name)
        let cache = try decoder.makeCache(tokens: 150, type: type)
        let sequence = cache.makeSequence()
        var found: [Float] = []
        for (range, reading) in [(0..<80, LatentReading.explicit), (80..<81, .absorbed), (81..<150, .explicit)] {
            let input = DecoderInput(tokens: Array(expected.tokens[0][range]), sequence: sequence, logits: .all)
            found += try decoder.forward([input], cache: cache, latentReading: reading).floats
        }
        #expect(FamilyLogitsTests.relativeError(found, expected.values) <= (type == .f16 ? 3e-3 : 3e-2))
    }

    @Test(arguments: formulas + families) func configurationsAreReadBackEqual(_ name: String) throws {
        let configuration = try Checkpoints.open(FamilyLogitsTests.folder.appending(path: name).path).configuration
        let text = configuration.huggingFaceJSON.serialized()
        let again = try DecoderConfiguration(json: MappedFile(copying: Array(text.utf8), name: "config.json"))
        #expect(again.experts == configuration.experts && again.attention == configuration.attention)
        #expect(again.geometries == configuration.geometries && again.rotary == configuration.rotary)
        #expect(abs(again.attentionScaleFactor - configuration.attentionScaleFactor) < 1e-12)
    }
}

extension DecoderConfiguration {
    fileprivate var geometries: [String] {
        (0..<layerCount).map { (try? geometry(layer: $0)).map { "\($0)" } ?? "none" }
    }
}
