import ApusAttention
import ApusModels
import ApusText
import Testing

/// `config.json` as it is written, read back.
@Suite struct ConfigurationWritingTests {
    private func reread(_ configuration: DecoderConfiguration) throws -> DecoderConfiguration {
        let text = configuration.huggingFaceJSON.serialized(.pretty)
        return try DecoderConfiguration(json: MappedFile(copying: Array(text.utf8), name: "config.json"))
    }

    @Test(arguments: FamilyLogitsTests.families + ["llama-bf16", "llama-reward"])
    func everyFamilyIsReadBackEqual(_ name: String) throws {
        let bytes = try Fixtures.bytes("models/\(name)/config.json")
        let configuration = try DecoderConfiguration(json: MappedFile(copying: bytes, name: "config.json"))
        #expect(try reread(configuration) == configuration)
    }

    /// Three query heads a group where there are groups, widths that differ everywhere.
    static func variants() -> [DecoderConfiguration] {
        func llama(_ attention: AttentionConfiguration, kvHeads: Int, rotaryWidth: Int) -> DecoderConfiguration {
            var configuration = DecoderConfiguration(
                architecture: .llama, vocabularySize: 67, hiddenSize: 36, layerCount: 2, queryHeads: 6,
                kvHeads: kvHeads, headWidth: 10, feedForwardWidth: 44, rotary: RotaryConfiguration(width: rotaryWidth),
                maxPositions: 64)
            configuration.attention = attention
            configuration.normEpsilon = 1e-6
            return configuration
        }
        var gla = LatentConfiguration.gla(headWidth: 10, rotaryWidth: 4)
        var split = gla
        split.latentHeads = 3
        split.queryRank = 33
        split.splitsQueryLatent = true
        gla.latentWidth = 14
        var direct = gla
        direct.queryRank = nil
        var mla = llama(.latent(.mla(headWidth: 10, rotaryWidth: 4)), kvHeads: 6, rotaryWidth: 4)
        mla.architecture = .deepseekV2
        mla.rotary.style = .interleaved
        return [
            llama(.grouped, kvHeads: 6, rotaryWidth: 10), llama(.grouped, kvHeads: 1, rotaryWidth: 10),
            llama(.grouped, kvHeads: 2, rotaryWidth: 10), llama(.tied(rotaryWidth: 4), kvHeads: 2, rotaryWidth: 4), mla,
            llama(.latent(gla), kvHeads: 6, rotaryWidth: 4), llama(.latent(split), kvHeads: 6, rotaryWidth: 4),
            llama(.latent(direct), kvHeads: 6, rotaryWidth: 4),
        ]
    }

    @Test(arguments: 0..<8) func everyVariantIsReadBackEqual(_ number: Int) throws {
        let configuration = Self.variants()[number]
        try configuration.validate(source: "test")
        #expect(try reread(configuration) == configuration)
    }

    @Test func variantsHaveThePapersCacheAndWeights() throws {
        let all = Self.variants()
        #expect(all.map(\.variant) == [.mha, .mqa, .gqa, .gta, .mla, .gla, .gla, .gla])
        let elements = try all.map { try $0.cacheBytesPerToken(bytesPerElement: 1) / 2 }
        #expect(elements == [120, 20, 40, 24, 44, 32, 64, 32])
        // GTA: q 60x36, tied 20x36, RoPE key 4x36 + 4, o 36x60; feed-forward 3x44x36; norms 2x36.
        let tied = 60 * 36 + 20 * 36 + 4 * 36 + 4 + 36 * 60 + 3 * 44 * 36 + 2 * 36
        #expect(all[3].parameterCount == 2 * tied + 2 * 67 * 36 + 36)
        // GLA: down to q 80 and to kv 2x14+4, norms 80 and 2x14, up to 6x14 and 2 x 3x20, all with biases.
        let latent = 80 * 37 + 32 * 37 + 80 + 28 + 84 * 81 + 2 * 60 * 15 + 36 * 60 + 3 * 44 * 36 + 2 * 36
        #expect(all[5].parameterCount == 2 * latent + 2 * 67 * 36 + 36)
    }

    /// The authors' GTA code leaves the RoPE width under `head_dim`.
    @Test func releasedFilesAreKnownByTheirKeys() throws {
        let text = """
            {"model_type": "llama", "vocab_size": 67, "hidden_size": 48, "num_hidden_layers": 1, "intermediate_size": 8,
             "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "KEYS": 6}
            """
        func read(_ keys: String) throws -> DecoderConfiguration {
            let text = text.replacing("\"KEYS\"", with: keys)
            return try DecoderConfiguration(json: MappedFile(copying: Array(text.utf8), name: "config.json"))
        }
        let tied = try read("\"head_dim\": 6, \"rope_dim\"")
        #expect(tied.attention == .tied(rotaryWidth: 6) && tied.headWidth == 12)
        let latent = try read("\"head_dim\": 12, \"qk_rope_dim\"")
        #expect(latent.attention == .latent(.gla(headWidth: 12, rotaryWidth: 6)))
        #expect(latent.headWidth == 12 && latent.variant == .gla)
    }
}
